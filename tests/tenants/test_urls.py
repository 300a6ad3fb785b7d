"""Tests Redis URLs: every password is read as it was meant or refused, and no error quotes it."""

from __future__ import annotations

import unittest
from urllib.parse import quote, unquote_to_bytes

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from redisproxy.tenants.model import BackendAddress
from redisproxy.tenants.urls import (
    MalformedError,
    address_of,
    at_address,
    parse_address,
    possible_indexes,
    read_master,
    read_tenant,
    tenant_url,
    with_password,
)

#: Any text that can be in a secret.
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40)
#: Characters with a meaning in a URL, so that many of them come together.
HOSTILE = st.text(st.sampled_from("@:/?#[]%&=;,\\. aA0129-_é\u2100\uff20\uff0f"), min_size=1, max_size=25)
ANY = st.one_of(TEXTS, HOSTILE)
UNHURRIED = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), max_examples=300)
PLACES = ("host", "127.0.0.1", "[::1]")


class TenantTests(unittest.TestCase):
    def refused(self, url: str, pattern: str) -> None:
        for secret in ("pw", "s3cret", "57", "Wc903z"):
            with self.subTest(url), self.assertRaisesRegex(MalformedError, pattern) as caught:
                read_tenant(url.encode())
            self.assertNotIn(secret, str(caught.exception))

    def test_the_last_at_of_the_authority_ends_the_password(self) -> None:
        self.assertEqual(read_tenant(b"redis://:pa@ss@h/3"), ("", b"pa@ss", 3))
        self.assertEqual(read_tenant(b"rediss://us%40er:p%40:%2F@h:1/3"), ("us@er", b"p@:/", 3))
        self.assertEqual(read_tenant(b"redis://:a[b]\\c@h/3"), ("", b"a[b]\\c", 3))
        self.assertEqual(read_tenant("REDIS://:pä℀ss@/3".encode()), ("", "pä℀ss".encode(), 3))

    def test_an_unescaped_separator_is_named_with_how_to_escape_it(self) -> None:
        for url in (
            "redis://:pa@ss/24#x@h/25",
            "redis://:pa/ss@h/3",
            "redis://:s3cret?@h/3",
            "redis://:#s3cret@h/3",
            "redis://default:57#Wc903z@h/3",
            "redis://:pw@h/3?x=a@b",
            "redis://:pw@h/3#a@b",
            "redis://:a://b@h/3",
        ):
            self.refused(url, r"has an @ after a / \? or #: .*%2F.*%3F.*%23.*%40$")

    def test_a_query_is_left_aside(self) -> None:
        for query in ("", "ssl_cert_reqs=none", "timeout=3&x", "db=3", "a=1;db=3&database=3", "adb=4", "db2=4"):
            self.assertEqual(read_tenant(f"redis://:pw@h:1/3?{query}#x".encode()), ("", b"pw", 3), query)

    def test_a_database_in_the_query_has_to_be_the_same(self) -> None:
        for query in ("db=4", "db=", "db", "db=03", "db=3&db=4", "x=1;db=4", "%64b=4", "DB=4", "database=4", "db=+3"):
            self.refused(f"redis://:s3cret@h:1/3?{query}", "names one database after the host, and another one")
        self.refused("redis://:s3cret@h?db=3", "does not end in /N")

    def test_the_index_is_canonical_digits(self) -> None:
        for path in ("", "/", "/03", "/3/", "//3", "/+3", "/3_0", "/٣", "/3/4", "/-1", "/1234567890"):
            self.refused(f"redis://:s3cret@h{path}", "does not end in /N")

    def test_hosts_and_ports(self) -> None:
        for place in ("", "h", "h:", "h:06379", "[::1]", "[::1]:1", "a_b.c-d:65535"):
            self.assertEqual(read_tenant(f"redis://:pw@{place}/3".encode())[2], 3)
        for place in ("h:0", "h:65536", "h:57x", "h:+1", "h:1:2", "[::1", "[h]", "a,b", "h%2f", "rédis", ":1"):
            self.refused(f"redis://:s3cret@{place}/3", "host or port is malformed|has a port")

    @UNHURRIED
    @given(ANY, st.sampled_from(PLACES), st.integers(0, 999_999_999))
    def test_what_is_written_is_read(self, password: str, place: str, index: int) -> None:
        url = tenant_url(f"redis://{place}:6379", password, index)
        self.assertEqual(read_tenant(url.encode()), ("", password.encode(), index))
        self.assertEqual(possible_indexes(url.encode()), (index,))

    @UNHURRIED
    @given(ANY, ANY)
    def test_what_is_changed_is_read(self, old: str, new: str) -> None:
        before, behind = "redis://us%4fer:", "@h:1/3?timeout=5#x"
        changed = with_password(before + quote(old, safe="") + behind, new)
        self.assertEqual(read_tenant(changed.encode()), ("usOer", new.encode(), 3))
        self.assertTrue(changed.startswith(before) and changed.endswith(behind))

    @UNHURRIED
    @given(ANY)
    @example("pa@ss/24#x")
    @example("x@127.0.0.1:57/1?")
    def test_no_password_leads_to_another_database(self, password: str) -> None:
        """A password that was written without escapes is read as it is, or refused, and never
        changes the database.
        """
        try:
            found = read_tenant(f"redis://:{password}@host:6379/3".encode())
        except MalformedError as error:
            texts = {len(password): str(error)}
            self.assertTrue(len(password) < 9 or password not in texts[len(password)])
        else:
            self.assertEqual(found, ("", unquote_to_bytes(password), 3))


class MasterTests(unittest.TestCase):
    def refused(self, url: str, pattern: str = "redis-connection-string") -> None:
        for secret in ("s3cret", "57", "Wc903z", "127.0.0.1"):
            with self.subTest(url), self.assertRaisesRegex(MalformedError, pattern) as caught:
                read_master(url.encode())
            self.assertNotIn(secret, str(caught.exception))

    def test_a_piece_of_the_password_is_no_host(self) -> None:
        for url in (
            "redis://127.0.0.1:57/rest@host/0",
            "redis://127.0.0.1:57?rest@host/0",
            "redis://127.0.0.1:57#rest@host/0",
            "redis://default:57#Wc903z@host/0",
            "rediss://:57/s3cret@host",
            "redis+sentinel://127.0.0.1:57/rest@host/m",
            "redis+sentinel://127.0.0.1:57?rest@host/m",
            "unix://:s3cret/x@/run/redis.sock",
            "unix:///run/redis.sock@s3cret",
        ):
            self.refused(url, r"has an @ after a / \? or #: .*%2F")

    def test_nothing_is_behind_the_index(self) -> None:
        for behind in ("/x", "/0/rest", "/0/", "//", "/00", "/0x", "/ 0"):
            self.refused(f"redis://:s3cret@host:6379{behind}")
        for behind in ("?db=3", "/0?", "/0?db=0", "/0#", "#", "/?timeout=1"):
            self.refused(f"redis://:s3cret@host:6379{behind}", r"has a \? or #")
            self.refused(f"redis+sentinel://:s3cret@host:6379/m{behind}", r"has a \? or #|is not of the form")
        for behind in ("", "/", "/0", "/15"):
            read = read_master(f"redis://:pw@Host:7000{behind}".encode())
            self.assertEqual(read, BackendAddress("host", 7000, password=b"pw"))

    def test_a_unix_socket(self) -> None:
        for url in ("unix:///run/a%40b%3F.sock", "unix://localhost/run/a%40b%3F.sock"):
            self.assertEqual(read_master(url.encode()), BackendAddress(path="/run/a@b?.sock"))
        read = read_master(b"unix://u:p%2Fw@/run/x")
        self.assertEqual((read.path, read.username, read.password), ("/run/x", "u", b"p/w"))
        for url in ("unix://run/redis.sock", "unix://", "unix://:s3cret@", "unix:///a%00b", "unix:///a%0Ab", "unix:///%FF"):
            self.refused(url)

    def test_sentinels(self) -> None:
        read = read_master(b"REDISS+Sentinel://u:p@,w@a,[::1]:1,a:26379/m/3")
        self.assertEqual((read.username, read.password, read.tls, read.master_name), ("u", b"p@,w", True, "m"))
        self.assertEqual(read.sentinels, (("a", 26379), ("::1", 1)))

    @UNHURRIED
    @given(ANY, st.sampled_from(["redis", "rediss", "redis+sentinel", "unix"]))
    @example("127.0.0.1:57/rest", "redis")
    def test_no_password_leads_to_another_host(self, password: str, scheme: str) -> None:
        place, path = ("", "/run/redis.sock") if scheme == "unix" else ("host:6379", "/1")
        for info, username, secret in (
            (f":{quote(password, safe='')}", "", password.encode()),
            (f":{password}", "", unquote_to_bytes(password)),
            # Text without a colon before it is a user name, as in any URL.
            (password, None, None),
        ):
            try:
                read = read_master(f"{scheme}://{info}@{place}{path}".encode())
            except MalformedError:
                self.assertNotEqual(info, f":{quote(password, safe='')}")
                continue
            self.assertEqual(
                (read.host or read.path, read.port, read.sentinels),
                {
                    "unix": ("/run/redis.sock", 6379, ()),
                    "redis+sentinel": ("", 6379, (("host", 6379),)),
                }.get(scheme, ("host", 6379, ())),
            )
            if secret is not None:
                self.assertEqual((read.username, read.password), (username, secret))


class OtherTests(unittest.TestCase):
    def test_indexes_that_may_be_meant(self) -> None:
        for url, indexes in (
            ("redis://:pa@ss/24#x@h/25", (24, 25)),
            ("redis://:pw@h/3?db=4", (4, 3)),
            ("redis://:pw@h/03", (3,)),
            ("redis://:pw@h:1/1/", (1,)),
            ("redis://h", ()),
            ("/1234567890", ()),
        ):
            self.assertEqual(possible_indexes(url.encode()), indexes)
        self.assertEqual(possible_indexes(None), ())

    def test_addresses(self) -> None:
        for given_, address in (
            ("redis.example", "redis://redis.example:6379"),
            ("redis.example:7000", "redis://redis.example:7000"),
            ("rediss://redis.example", "rediss://redis.example:6379"),
            ("redis://[::1]:7000/", "redis://[::1]:7000"),
        ):
            self.assertEqual(parse_address(given_), address)
        for text in ("", "a b", "http://h", "h:0", "h:65536", "redis://u:pw@h", "h/3", "h:6379x", "redis://", "h:", "a,b"):
            with self.assertRaisesRegex(ValueError, "HOST:PORT"):
                parse_address(text)

    def test_the_same_url_but_for_password_or_address(self) -> None:
        """Everything but the password or the address stays the same, letter by letter: the tenant's
        client library may need it.
        """
        for url, password, address, where in (
            (
                "rediss://green:old@other-host:7000/3?ssl_cert_reqs=none",
                "rediss://green:new@other-host:7000/3?ssl_cert_reqs=none",
                "redis://green:old@there:1/3?ssl_cert_reqs=none",
                "rediss://other-host:7000",
            ),
            ("redis://:old@[::1]/3", "redis://:new@[::1]/3", "redis://:old@there:1/3", "redis://[::1]:6379"),
            ("REDIS://:old@h:/3#x", "REDIS://:new@h:/3#x", "redis://:old@there:1/3#x", "redis://h:6379"),
            ("redis://:old@/3", "redis://:new@/3", "redis://:old@there:1/3", ""),
        ):
            self.assertEqual(with_password(url, "new"), password)
            self.assertEqual(at_address(url, "redis://there:1"), address)
            self.assertEqual(address_of(url), where)
