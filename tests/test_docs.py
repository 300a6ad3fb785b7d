"""What the documents say is so: settings, links, log lines and errors, commands.

What the proxy can say is found in its source (`support.texts`), so that a line that is new, or is
worded otherwise, asks for its row in docs/troubleshoot.md, and a row that nothing says any more is
found, too.
"""

from __future__ import annotations

import functools
import itertools
import re
import runpy
import shlex
import unittest
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import yaml

from redisproxy import __version__
from redisproxy.cli.main import command
from redisproxy.ops.access_log import ConnectionRecord
from redisproxy.sources.watch_events import Watched
from redisproxy.tenants.limits import ANNOTATIONS

from .support.texts import ANY, said

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
TROUBLESHOOT = ROOT / "docs/troubleshoot.md"


# Markdown.


def prose(text: str) -> str:
    """Without blocks of code."""
    return "\n".join(
        line for line in re.sub(r"```.*?```", "", text, flags=re.DOTALL).split("\n") if not line.startswith("    ")
    )


def blocks(text: str) -> list[str]:
    """Blocks of code: what is indented, behind an empty line."""
    return re.findall(r"(?<=\n\n)(?: {4,}\S[^\n]*\n|\n+(?= {4}))+", text)


def spans(text: str) -> list[str]:
    """Code within the text."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def anchors(path: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*)", prose(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(text: str) -> list[list[str]]:
    """The cells of all tables, without their heads."""
    lines = text.split("\n")
    tables = [line for line, after in itertools.pairwise([*lines, ""]) if line.startswith("|") and "| --- |" not in after]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in tables]
    return [row for row in cells if not set("".join(row)) <= {"-", " "}]


# Rows and texts.

#: What is filled in, in a row.
PLACES = "NS|SECRET|ADDRESS|N|NAME|REASON|COMMAND|FILE|PORT|SOURCE|HOST|PID|ENDPOINT|TIME|VERSION|CONNECTION"


def from_row(span: str) -> re.Pattern[str]:
    """What matches the texts that a row is for."""
    parts = re.split(rf"…|\b(?:{PLACES})\b", span)
    return re.compile(".*".join(map(re.escape, parts)), re.DOTALL)


#: Of texts whose fields are all that tells them apart: what they are like.
LIKE = {
    f"{ANY}: {ANY}": ["sentinel 10.0.0.1:26379: NOAUTH"],
    f"{ANY} tells again where the master is": ["sentinel 10.0.0.1:26379 tells again where the master is"],
    f"log-in from {ANY} refused: {ANY}": [
        f"log-in from {ANY} refused: {why}" for why in ("wrong", "ambiguous", "not-loaded")
    ],
    f"{ANY} cannot be watched: {ANY} Until then what changes takes effect at the next refresh": [
        f"{what.value} cannot be watched: {ANY}" for what in Watched
    ],
    **{
        f"{ANY}: {text}": [f"ssl:6380: {text}"]
        for text in (
            f"from now on clients have to show a certificate that is signed by one in {ANY}",
            f"{ANY} is that in {ANY}, valid until {ANY}",
            f"{ANY} is that in {ANY}, which begins on {ANY} only: clients refuse it",
            f"{ANY} is that in {ANY}, which ended on {ANY}: clients refuse it",
            f"{ANY}; the last good certificate stays in force, until {ANY}",
        )
    },
}
#: What stands before a reason: where it is.
BEFORE = (
    *("", f"{ANY}/{ANY}: ", f"{ANY}: "),
    *("all namespaces: ", "all namespaces and the master secret: ", "some namespaces: "),
)


def like(texts: Iterable[str]) -> set[str]:
    """Texts as they could be."""
    return {one for text in texts for one in LIKE.get(text, [text])}


def close_reasons() -> list[str]:
    return (
        re.search(r"close_reason: ([a-z0-9, \n-]+)\.", ConnectionRecord.__doc__)[1]
        .replace("\n", " ")
        .replace(" ", "")
        .split(",")
    )


#: Log lines without a row of their own, and why.
NO_ROW = {
    f"worker {ANY} ({ANY}) {ANY}; another is started in {ANY} s": "those that end so have theirs",
    ANY: "problems, which have theirs",
    f"Redis at {ANY} {ANY}": "its states, which have theirs",
}
#: Reasons that nobody is told, or that say what another row says.
NO_REASON = {
    "all namespaces": "stands in place of a name",
    "all namespaces and the master secret": "likewise",
    "some namespaces": "likewise",
    "a namespace": "likewise",
    f"document {ANY}": "likewise",
    "the proxy stops": "and nobody reads any more",
    "no backend is known": "there is no master secret, which is told",
    "a connection with the master's rights": "opened anew at once",
    "Redis was away a moment ago": "the client is told that Redis cannot be reached",
    f"{ANY}: {ANY}": "a file, and what the system says of it: has no words of its own",
    f"{ANY}: it is not YAML or JSON ({ANY})": "told as a problem of the file, with what that leads to",
    f"{ANY}: it cannot be read ({ANY})": "likewise",
}
#: Errors in Redis's own words, which a client finds in Redis's documents.
REDIS_OWN = {
    "-ERR syntax error",
    "-ERR value is not an integer or out of range",
    f"-ERR wrong number of arguments for '{ANY}' command",
    "-NOPROTO unsupported protocol version",
    "-ERR Protocol version is not an integer or out of range",
    f"-ERR Syntax error in HELLO option '{ANY}'",
    f"-ERR Client names cannot contain spaces, newlines or special characters, or more than {ANY} bytes.",
    "-ERR Unrecognized option for CLIENT SETINFO: it takes LIB-NAME or LIB-VER",
}
#: Rows of what Redis, Kubernetes or OpenSSL say.
FOREIGN = (
    "-LOADING …",
    "-READONLY …",
    "-BUSY …",
    "-OOM …",
    "-NOPERM …",
    "not logged in",
)


@functools.cache
def told() -> dict[str, re.Pattern[str]]:
    """What the first cells of troubleshoot.md quote, and what its last line of lines that ask for
    nothing does.
    """
    text = TROUBLESHOOT.read_text()
    quoted = [span for row in rows(text) for span in re.findall(r"`([^`]+)`", row[0])]
    quoted += re.findall(r"`([^`]+)`", text.partition("These ask for nothing:")[2].partition("\n\n")[0])
    return {span: from_row(span) for span in quoted}


class SaidTests(unittest.TestCase):
    maxDiff = None

    def missing(self, texts: Iterable[str], *before: str) -> list[str]:
        """Those that no row is for."""
        found = told().values()
        return sorted(
            text
            for text in like(texts)
            if not any(row.fullmatch(start + text) for row in found for start in before or ("",))
        )

    def test_texts_are_found(self) -> None:
        """Or the other tests would have nothing to compare."""
        found = said()
        self.assertGreater(len(found.logged), 40)
        self.assertGreater(len(found.reasons), 60)
        self.assertGreater(len(found.errors), 25)
        self.assertGreater(found.failures, 10)
        for text in (
            f"no connection to Redis: {ANY}",
            "one isolation layer, the proxy's policy: Redis does not hold the tenants' limits, and scripts are refused",
            f"worker {ANY} ({ANY}) ended with {ANY}: its clients have to connect again; another is started in {ANY} s",
        ):
            self.assertIn(text, found.logged)
        self.assertIn("redis-connection-string has no password", found.reasons)
        self.assertIn(
            f"-ERR this namespace has subscribed to {ANY} different patterns: Redis is told of no more", found.errors
        )

    def test_each_log_line_has_its_row(self) -> None:
        self.assertEqual(self.missing(said().logged - NO_ROW.keys()), [])
        self.assertIn("a line with a traceback", TROUBLESHOOT.read_text())  # of log.failure

    def test_each_state_of_redis_has_its_row(self) -> None:
        self.assertGreater(len(said().states), 3)
        self.assertEqual(self.missing(said().states, "", f"Redis at {ANY} "), [])

    def test_each_reason_has_its_row(self) -> None:
        self.assertEqual(self.missing(said().reasons - NO_REASON.keys(), *BEFORE), [])

    def test_each_error_has_its_row(self) -> None:
        self.assertEqual(self.missing(said().errors - REDIS_OWN), [])

    def test_exceptions_are_needed(self) -> None:
        found = said()
        self.assertEqual(REDIS_OWN - found.errors, set())
        self.assertEqual(NO_REASON.keys() - found.reasons, set())
        self.assertEqual(NO_ROW.keys() - found.logged, set())

    def test_each_row_is_said(self) -> None:
        """A row that quotes what nothing says any more is out of date. What stands before a reason
        may be anything.
        """
        found = said()
        texts = like(found.logged | found.errors | found.reasons | found.states | found.all)
        texts = {text for text in texts if len(text.replace(ANY, "").strip(" :/")) > 3}
        texts = {start + text for text in texts for start in (*BEFORE, f"Redis at {ANY} ")}
        known = {*FOREIGN, *close_reasons()}
        lost = [span for span, row in told().items() if span not in known and not any(map(row.fullmatch, texts))]
        self.assertEqual(lost, [])

    def test_each_close_reason_is_explained(self) -> None:
        self.assertGreater(len(close_reasons()), 10)
        self.assertEqual(set(close_reasons()) - told().keys(), set())


class GeneratedTests(unittest.TestCase):
    maxDiff = None

    def test_generated_parts_are_what_the_code_says(self) -> None:
        """Also each setting is in one table, and each subcommand has its part: else this raises."""
        pages = runpy.run_path(str(ROOT / "docs/generate.py"))["pages"]()
        self.assertEqual({page.name for page in pages}, {"settings.md", "command.md"})
        for page, text in pages.items():
            self.assertEqual(page.read_text(), text, f"docs/{page.name} is out of date: `make docs` writes it anew")


class LinkTests(unittest.TestCase):
    def test_they_lead_somewhere(self) -> None:
        count = 0
        for page in PAGES:
            for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(page.read_text()))):
                if link.startswith("https://"):
                    continue
                count += 1
                file, _, anchor = link.partition("#")
                target = (page.parent / file).resolve() if file else page
                self.assertTrue(target.exists(), f"{page.name}: {link}")
                if anchor:
                    self.assertIn(anchor, anchors(target), f"{page.name}: {link}")
        self.assertGreater(count, 80)

    def test_no_link_has_a_space(self) -> None:
        """It would be shown as text, and the test above would not see it."""
        for page in PAGES:
            found = re.findall(r"\]\([^)\n]*\s[^)\n]*\)", re.sub(r"`[^`\n]*`", "", prose(page.read_text())))
            self.assertEqual(found, [], page.name)

    def test_each_page_can_be_reached_from_the_readme(self) -> None:
        readme = (ROOT / "README.md").read_text()
        for page in ROOT.glob("docs/*.md"):
            self.assertIn(f"](docs/{page.name})", readme)

    def test_files_that_are_named_are_there(self) -> None:
        for page in PAGES:
            for file in re.findall(r"(?<![\w/.-])(?:deploy|tests|benchmarks|docs)/[\w./-]*\w", page.read_text()):
                if file != "deploy/redisproxy":  # what kubectl calls the Deployment
                    self.assertTrue((ROOT / file).exists(), f"{page.name}: {file}")


#: Options of other programs: redis-cli, twistd, kubectl, benchmarks.
OTHERS = re.compile(r"--(scan|bigkeys|memkeys|latency|pipe|eval|rdb|replica|stat|ldb|strict|variant|syslog|logfile|help)")


class CommandTests(unittest.TestCase):
    """Whatever can be typed."""

    def lines(self) -> Iterator[tuple[str, list[str]]]:
        """(page, words) of each command in a block."""
        for page in PAGES:
            for block in blocks(page.read_text()):
                for line in block.split("\n"):
                    for part in re.sub(r"\s#\s.*|&$", "", line).split(" | "):
                        yield page.name, self.words(part)

    def words(self, line: str) -> list[str]:
        try:
            words = shlex.split(line)
        except ValueError:
            return []
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        return words[words.index("--") + 1 :] if "kubectl" in words[:1] and "--" in words and "exec" in words else words

    def test_the_operators_commands_are_taken(self) -> None:
        taken = set()
        for page, words in self.lines():
            if words[:1] == ["redisproxy"] and words[1:2] != [">"]:
                words = [{"N": "1", "NAMESPACE": "tenant-a"}.get(word, word) for word in words[1:]]
                sub = command.commands[words[0]]
                try:
                    sub.make_context(words[0], words[1:], parent=click.Context(command))
                except click.ClickException as error:
                    self.fail(f"{page}: redisproxy {' '.join(words)}: {error.format_message()}")
                taken.add(words[0])
        self.assertEqual(taken, set(command.commands))

    def test_options_that_are_named_are_there(self) -> None:
        known = {option for sub in command.commands.values() for parameter in sub.params for option in parameter.opts}
        known |= {
            option for sub in command.commands.values() for parameter in sub.params for option in parameter.secondary_opts
        }
        for page in PAGES:
            if page.name in ("CONTRIBUTING.md", "RESULTS.md"):
                continue
            for span in spans(page.read_text()):
                words = span.split()
                option = words[0].partition("=")[0]
                if option.startswith("--") and not OTHERS.fullmatch(option):
                    self.assertIn(option, known, f"{page.name}: {span}")
                if words[0] == "redisproxy" and len(words) > 1 and words[1] not in ("…", "--version"):
                    sub = command.commands[words[1]]
                    own = {option for parameter in sub.params for option in (*parameter.opts, *parameter.secondary_opts)}
                    for word in words:
                        if word.startswith("--"):
                            self.assertIn(word, own, f"{page.name}: {span}")

    def test_make_knows_its_targets(self) -> None:
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        named = set()
        for page in PAGES:
            text = page.read_text()
            named |= set(re.findall(r"`make ([a-z-]+)", text)) | set(re.findall(r"^ {4,}make ([a-z-]+)", text, re.MULTILINE))
        self.assertEqual(named - targets, set())
        self.assertLessEqual({"run", "test", "bench"}, named)

    def test_what_is_applied_or_installed_is_there(self) -> None:
        values = yaml.safe_load((ROOT / "deploy/helm/redisproxy/values.yaml").read_text())
        directories, charts = 0, 0
        for page in PAGES:
            text = page.read_text()
            for line in itertools.chain(spans(text), *(block.split("\n") for block in blocks(text))):
                for directory in re.findall(r"kubectl (?:kustomize|apply -k|delete -k) (deploy\S+)", line):
                    self.assertTrue((ROOT / directory / "kustomization.yaml").is_file(), f"{page.name}: {line}")
                    directories += 1
                if line.strip().startswith("helm install"):
                    charts += 1
                    words = shlex.split(line)
                    if words[3].startswith("oci://"):
                        self.assertTrue(words[3].endswith("/redisproxy"), f"{page.name}: {line}")
                        self.assertEqual(words[words.index("--version") + 1], __version__, f"{page.name}: {line}")
                    else:
                        self.assertTrue((ROOT / words[3] / "Chart.yaml").is_file(), f"{page.name}: {line}")
                    for setting in [words[place + 1] for place, word in enumerate(words) if word == "--set"]:
                        functools.reduce(lambda part, key: part[key], setting.partition("=")[0].split("."), values)
        self.assertGreater(directories, 2)
        self.assertGreater(charts, 1)

    def test_annotations_are_those_that_are_read(self) -> None:
        named = {name for page in PAGES for name in re.findall(r"\b(redisproxy/[a-z]+-[a-z-]+)\b", page.read_text())}
        self.assertEqual(named - set(ANNOTATIONS), set())
        self.assertEqual(
            set(ANNOTATIONS) - set(re.findall(r"redisproxy/[a-z-]+", (ROOT / "docs/operate.md").read_text())), set()
        )

    def test_blocks_are_what_they_look_like(self) -> None:
        kinds = {"yaml": 0, "python": 0}
        for page in ROOT.glob("docs/*.md"):
            for block in blocks(page.read_text()):
                code = re.sub(r"^ {4}", "", block, flags=re.MULTILINE)
                if re.match(r"import |from ", code):
                    compile(code, page.name, "exec")
                    kinds["python"] += 1
                elif re.match(r"[A-Za-z]+:(\s|$)", code):
                    list(yaml.safe_load_all(code))
                    kinds["yaml"] += 1
        self.assertGreaterEqual(min(kinds.values()), 1, kinds)
