"""Colours and type of the report: one list for light and dark, written out as style sheets without variables.

Tasks and options take colours that people with any of the common colour deficiencies can tell apart (after Okabe and
Ito), and nothing is told by colour alone: position, shape or a label says it too.
"""

from __future__ import annotations

SANS = 'system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif'
MONO = 'ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace'

# Name -> (light, dark).
COLOURS = {
    "page": ("#f3f4f6", "#0e1115"),
    "paper": ("#ffffff", "#171b21"),
    "ink": ("#1a1f26", "#e8ebef"),
    "faint": ("#5a6470", "#9ba6b2"),
    "line": ("#b9c1ca", "#454f5a"),
    "grid": ("#e6e9ed", "#272d35"),
    "good": ("#00694d", "#3ecfa0"),
    "bad": ("#b3380a", "#ff9060"),
    "accent": ("#0063a0", "#5ab4f0"),
}
TASKS = (
    ("#0072b2", "#56b4e9"),  # blue
    ("#d55e00", "#ff8f4d"),  # vermilion
    ("#00805c", "#2fc79b"),  # green
    ("#b04a8c", "#ec94c8"),  # purple
    ("#8a6d00", "#e3c342"),  # yellow
    ("#4a4f57", "#c3c8cf"),  # grey
    ("#3a3aa8", "#a5a5ff"),  # indigo
    ("#8c4a2f", "#d9a58c"),  # brown
)
OPTIONS = (
    ("#0072b2", "#56b4e9"),
    ("#e07b00", "#f5a63d"),
    ("#6b7480", "#a4adb8"),
    ("#00805c", "#2fc79b"),
    ("#b04a8c", "#ec94c8"),
    ("#8a6d00", "#e3c342"),
    ("#3a3aa8", "#a5a5ff"),
    ("#8c4a2f", "#d9a58c"),
)
_KNOWN_OPTIONS = {"shared": 0, "select": 0, "own": 1, "skip": 2}


def task_class(index: int) -> str:
    """Class of a task's colour; tasks beyond the eighth begin anew."""
    return f"t{index % len(TASKS)}"


def option_class(name: str, index: int) -> str:
    """Class of an option's colour: the usual options always have the same one."""
    return f"o{_KNOWN_OPTIONS.get(name, index % len(OPTIONS))}"


def _rules() -> list[tuple[str, str, tuple[str, str]]]:
    """(Selector, property, (light, dark)) of everything in a figure."""
    c = COLOURS
    rules = [
        ("text", "fill", c["ink"]),
        ("text.faint", "fill", c["faint"]),
        ("text.on", "fill", c["paper"]),
        (".paper", "fill", c["paper"]),
        (".band", "fill", c["grid"]),
        (".ink", "fill", c["ink"]),
        (".bar", "fill", c["line"]),
        (".grid", "stroke", c["grid"]),
        (".axis", "stroke", c["line"]),
        (".rim", "stroke", c["ink"]),
        (".halo", "stroke", c["paper"]),
        (".core", "stroke", c["paper"]),
        (".grey", "stroke", c["faint"]),
        (".found", "fill", c["accent"]),
    ]
    for name, colours in (("t", TASKS), ("o", OPTIONS)):
        for i, pair in enumerate(colours):
            rules += [
                (f".{name}{i}", "fill", pair),
                (f".{name}{i}.way", "stroke", pair),
                (f".{name}{i}.ring", "stroke", pair),
            ]
    # Last, for they replace a colour's filling.
    return [*rules, (".hollow", "fill", c["paper"]), (".way", "fill", ("none", "none"))]


_SHAPES = {
    "": f"font-family:{SANS};font-size:11px",
    " .mono": f"font-family:{MONO};font-size:9.5px",
    " .bold": "font-weight:600",
    " .way": "stroke-width:2.5",
    " .thin": "stroke-width:1.2;stroke-dasharray:1.5 3",
    " .curve": "fill:none;stroke-width:1.8;stroke-linejoin:round",
    " .pale": "stroke-width:1;stroke-opacity:.35",
    " .dash": "stroke-dasharray:4 3;stroke-width:1.2",
    " .held": "stroke-dasharray:1.5 2.5;stroke-width:1.5",
    " .grey": "fill:none",
    " .ring": "stroke-width:2",
    " .halo": "stroke-width:1.5",
    " .shell": "stroke-width:10;stroke-linecap:round",
    " .core": "stroke-width:7;stroke-linecap:round",
    " .bridge": "stroke-width:2.5",
    " .tie": "stroke-width:1;stroke-dasharray:1 2.5",
    " .chosen": "fill:none;stroke-width:1.1",
    " .none": "fill:none",
    " .band": "fill-opacity:.5",
}


def figure_css() -> str:
    """The style sheet of figures: shapes, then light colours, then dark ones where the reader prefers them."""
    shapes = "".join(f".fig{selector}{{{text}}}" for selector, text in _SHAPES.items())
    return shapes + _both([(f".fig {selector}", prop, pair) for selector, prop, pair in _rules()])


def page_css() -> str:
    """The style sheet of the page around them."""
    c = COLOURS
    rules = [
        ("body", "background", c["page"]),
        ("body", "color", c["ink"]),
        ("section,.tile", "background", c["paper"]),
        ("section,.tile", "border-color", c["grid"]),
        ("th,td", "border-color", c["grid"]),
        (".faint,figcaption,dt,th,footer", "color", c["faint"]),
        ("figcaption b", "color", c["ink"]),
        ("a", "color", c["accent"]),
        ("pre,code", "background", c["page"]),
        (".good", "color", c["good"]),
        (".bad", "color", c["bad"]),
        ("td.key", "color", c["accent"]),
    ]
    return _LAYOUT + _both(rules)


def _both(rules: list[tuple[str, str, tuple[str, str]]]) -> str:
    light = "".join(f"{selector}{{{prop}:{pair[0]}}}" for selector, prop, pair in rules)
    dark = "".join(f"{selector}{{{prop}:{pair[1]}}}" for selector, prop, pair in rules)
    return f"{light}@media (prefers-color-scheme:dark){{{dark}}}"


_LAYOUT = (
    ":root{color-scheme:light dark}"
    "*{box-sizing:border-box}"
    f"body{{margin:0;font:15px/1.5 {SANS};-webkit-text-size-adjust:100%}}"
    "main,header,footer{max-width:1120px;margin:0 auto;padding:0 16px}"
    "header{padding-top:28px}"
    "footer{padding-bottom:40px;font-size:13px}"
    "h1{font-size:24px;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}"
    "h2{font-size:18px;margin:0 0 10px}"
    "h3{font-size:14px;margin:18px 0 6px}"
    "p{margin:6px 0;max-width:72ch;overflow-wrap:anywhere}"
    "nav{margin:10px 0 0;font-size:13px;display:flex;flex-wrap:wrap;gap:4px 14px}"
    "a{text-decoration:none}a:hover{text-decoration:underline}"
    "section{border:1px solid;border-radius:10px;padding:16px 20px 18px;margin:16px 0;scroll-margin-top:8px}"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(124px,1fr));gap:10px;margin:16px 0}"
    ".tile{border:1px solid;border-radius:10px;padding:12px 14px}"
    ".tile b{display:block;font-size:25px;line-height:1.2;font-weight:650;font-variant-numeric:tabular-nums}"
    ".tile span{font-size:12.5px;line-height:1.35;display:block}"
    ".scroll{overflow-x:auto;margin:0 -4px;padding:0 4px}"
    "figure+.scroll{margin-top:12px}"
    "table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums}"
    "th,td{text-align:right;padding:4px 9px;border-bottom:1px solid;white-space:nowrap;vertical-align:top}"
    "th{font-weight:500;font-size:12.5px;vertical-align:bottom}"
    "th:first-child,td:first-child{padding-left:0}"
    "th:first-child,td:first-child,.text{text-align:left}"
    "tr.first td{padding-top:11px}"
    "td.metric{padding-left:14px!important}"
    "td.key,tr.total td{font-weight:650}"
    ".mono,code,pre{"
    f"font-family:{MONO}"
    "}"
    "td.mono{font-size:12px}"
    "pre{padding:10px 12px;border-radius:8px;overflow-x:auto;font-size:12.5px;line-height:1.45;margin:6px 0;"
    "white-space:pre-wrap;overflow-wrap:anywhere}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 16px;margin:10px 0;font-size:14px}"
    "dt{font-size:13px}dd{margin:0;overflow-wrap:anywhere;min-width:0}"
    "figure{margin:14px 0 0;min-width:0}"
    "figcaption{font-size:13px;margin-bottom:8px;max-width:80ch}"
    "figcaption b{font-size:14px}"
    "p.faint{font-size:13.5px}"
    ".legend{display:flex;flex-wrap:wrap;gap:4px 26px;margin:0 0 12px}"
    ".panels{display:flex;flex-wrap:wrap;gap:14px 28px;align-items:flex-start}"
    ".pair{display:flex;flex-wrap:wrap;gap:14px 40px;align-items:flex-start}"
    ".pair>*{flex:0 1 auto;min-width:0;max-width:100%}"
    ".pair>figure,.pair>.side{flex:0 1 322px}"
    ".pair>figure:first-child,.side>figure:first-child{margin-top:0}"
    "svg{display:block;max-width:100%;height:auto;overflow:visible}"
    "details{margin-top:12px;font-size:14px}summary{cursor:pointer;font-size:13.5px}"
    "ul{margin:6px 0;padding-left:20px}li{margin:3px 0;overflow-wrap:anywhere}"
    "@media (max-width:600px){body{font-size:14.5px}main,header,footer{padding-left:8px;padding-right:8px}"
    "header{padding-left:12px;padding-right:12px}"
    "section{padding:14px 11px 15px}th,td{padding:4px 6px}table{font-size:13px}"
    "dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:7px}.tile b{font-size:22px}}"
    "@media print{section{break-inside:avoid-page}}"
)
