"""The style of the status page, and the script that sorts its tables.

Owns both texts. The page contains them unchanged, and its policy (CSP) has their hashes. So no text
may need escaping: neither has <, > or &.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_STYLE = """
:root { color-scheme: light dark; --ground: #f6f7f9; --card: #fff; --ink: #1a1d21; --soft: #5c6470; --line: #dde1e7;
  --good: #15703a; --bad: #b3261e; --bad-ground: #fdecea; --warn: #8a5a00; --accent: #1f5fbf; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --card: #1c2026; --ink: #e6e9ee; --soft: #9aa3af;
  --line: #2f353d; --good: #5fcf8d; --bad: #ff8a80; --bad-ground: #3a1d1d; --warn: #f0b95b; --accent: #82b1ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 1560px; margin: 0 auto; padding: 16px; }
header { display: flex; flex-wrap: wrap; gap: 4px 16px; align-items: baseline; margin-bottom: 12px; }
header nav { display: flex; gap: 16px; margin-left: auto; }
a { color: var(--accent); }
h1 { font-size: 20px; margin: 0; }
h2 { font-size: 16px; margin: 24px 0 8px; }
p { margin: 4px 0; }
small { display: block; font-size: 12px; color: var(--soft); font-weight: 400; }
.soft { color: var(--soft); }
.good { color: var(--good); font-weight: 600; }
.bad { color: var(--bad); font-weight: 600; }
.warn { color: var(--warn); font-weight: 600; }
.name { overflow-wrap: anywhere; }
.banner { background: var(--bad-ground); color: var(--bad); border-left: 4px solid; padding: 10px 14px; margin: 0 0 12px;
  border-radius: 4px; font-weight: 600; overflow-wrap: anywhere; }
.banner small { font-size: 14px; color: var(--ink); margin-top: 4px; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(155px, 1fr)); grid-auto-flow: dense; gap: 8px; margin: 0;
  }
dl div { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 8px 12px; }
dl .wide { grid-column: span 2; }
dt { color: var(--soft); font-size: 13px; }
dd { margin: 0; font-size: 17px; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
dd svg { display: block; margin: 3px 0 1px; }
svg { width: 87px; height: 22px; fill: none; stroke: var(--accent); stroke-width: 1.5; stroke-linecap: round;
  stroke-linejoin: round; overflow: visible; }
path + path { stroke: var(--soft); stroke-width: 1; }
.names { display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 2px 16px; margin: 8px 0;
  padding: 8px 12px; list-style: none; background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  overflow-wrap: anywhere; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 8px; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; }
th { font-size: 12px; color: var(--soft); font-weight: 600; white-space: nowrap; vertical-align: bottom; }
th.number { text-align: right; }
td svg { display: block; margin: 2px 0 0 auto; }
td:first-child { min-width: 110px; overflow-wrap: anywhere; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer;
  text-decoration: underline dotted; text-underline-offset: 3px; }
th button:hover { color: var(--ink); text-decoration-style: solid; }
th[aria-sort] { color: var(--ink); }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
@media (max-width: 1159px) {
  header nav { margin-left: 0; }
  .scroll { overflow-x: visible; background: none; border: 0; }
  table { display: block; }
  tbody { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr)); gap: 8px; }
  thead { display: none; }
  table.sorts thead { display: block; margin-bottom: 8px; }
  table.sorts thead tr { display: flex; flex-wrap: wrap; gap: 4px 14px; }
  table.sorts thead tr::before { content: "Sort by"; color: var(--soft); font-size: 13px; padding: 4px 0; }
  table.sorts th { border: 0; padding: 4px 0; font-size: 13px; }
  tbody tr { display: block; background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 4px 0;
    min-width: 0; }
  tbody td { display: flex; gap: 12px; align-items: baseline; justify-content: flex-end; border: 0; padding: 3px 12px;
    text-align: right; overflow-wrap: anywhere; }
  td::before { color: var(--soft); font-size: 13px; font-weight: 400; text-align: left; white-space: nowrap;
    margin-right: auto; }
  tbody td:first-child { font-weight: 600; justify-content: flex-start; text-align: left; }
  td:first-child::before { display: none; }
  .tenants tbody tr { display: grid; grid-template-columns: 1fr 1fr; grid-auto-flow: dense; }
  .tenants td:nth-child(1), .tenants td:nth-child(6), .tenants td:nth-child(8), .tenants td:nth-child(10),
  .tenants td:nth-child(11) { grid-column: span 2; }
  td svg { margin: 0; align-self: center; flex: none; }
}
"""


def style(tables: Mapping[str, Sequence[str]]) -> str:
    """Returns the style of a page with these tables.

    tables: by class, the titles of the columns, with # and ~ as in `page_parts.Table`.

    On a screen that is narrower than the widest table, each row is a card. The titles are then
    beside their values.
    """
    wide, narrow = [], []
    for name, columns in tables.items():
        for number, title in enumerate(columns, 1):
            cells = f".{name} td:nth-child({number})"
            narrow.append(f'{cells}::before {{ content: "{title.lstrip("#~")}"; }}')
            if title.startswith("#"):
                wide.append(f"{cells} {{ text-align: right; white-space: nowrap; }}")
            elif title.startswith("~"):
                wide.append(f"{cells} {{ min-width: 150px; overflow-wrap: anywhere; }}")
                narrow.append(f"{cells} {{ display: block; text-align: left; }}")
                narrow.append(f"{cells}::before {{ display: block; }}")
    return _STYLE + _for_width("min-width: 1160px", wide) + _for_width("max-width: 1159px", narrow)


def _for_width(width: str, rules: Sequence[str]) -> str:
    lines = "\n".join(f"  {rule}" for rule in rules)
    return f"@media ({width}) {{\n{lines}\n}}\n"


# The sort order is kept in the browser's tab, so that it survives the page's refresh.
SCRIPT = """
(function () {
  "use strict";
  var collator = new Intl.Collator(undefined, { numeric: true });
  function load(key) {
    try { return JSON.parse(sessionStorage.getItem(key)); } catch (error) { return null; }
  }
  function save(key, value) {
    try { sessionStorage.setItem(key, JSON.stringify(value)); } catch (error) { return; }
  }
  function enable(table) {
    var key = "sort " + table.dataset.sort;
    var body = table.tBodies[0];
    if (Math.max(1, body.rows.length) === 1) { return; }
    var heads = Array.from(table.tHead.rows[0].cells);
    var titles = heads.map(function (head) { return head.textContent; });
    function value(row, column) {
      var cell = row.cells[column];
      var kept = cell.dataset.v;
      var text = cell.textContent;
      if (kept === undefined) {
        if (heads[column].className !== "number") { return text; }
        kept = text.replace(/,/g, "");
      }
      var number = parseFloat(kept);
      return isNaN(number) ? -1 : number;
    }
    function compare(one, other) {
      if (typeof one === "number") { return typeof other === "number" ? one - other : 1; }
      return typeof other === "number" ? -1 : collator.compare(one, other);
    }
    function sort(column, down) {
      var rows = Array.from(body.rows).map(function (row) { return [value(row, column), row]; });
      rows.sort(function (one, other) { return (down ? -1 : 1) * compare(one[0], other[0]); });
      rows.forEach(function (pair) { body.appendChild(pair[1]); });
      heads.forEach(function (head, index) {
        if (index === column) {
          head.setAttribute("aria-sort", down ? "descending" : "ascending");
        } else {
          head.removeAttribute("aria-sort");
        }
      });
    }
    heads.forEach(function (head, column) {
      var button = document.createElement("button");
      button.type = "button";
      button.textContent = titles[column];
      head.replaceChildren(button);
      button.addEventListener("click", function () {
        var now = head.getAttribute("aria-sort");
        var down = now ? now === "ascending" : head.className === "number";
        sort(column, down);
        save(key, [titles[column], down]);
      });
    });
    table.classList.add("sorts");
    var kept = load(key);
    var column = Array.isArray(kept) ? titles.indexOf(kept[0]) : -1;
    if (column !== -1) { sort(column, kept[1] === true); }
  }
  document.querySelectorAll("table[data-sort]").forEach(enable);
})();
"""
