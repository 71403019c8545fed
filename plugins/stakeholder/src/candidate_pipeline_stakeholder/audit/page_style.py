"""How the page looks: light and dark, on a desk, a telephone and paper."""

from __future__ import annotations

from typing import Final

SERIES_LIGHT: Final = ("#0072b2", "#d55e00", "#00795a", "#b0538a", "#8a6d00", "#3b8fc4", "#5b5b5b", "#7a4fb5")
SERIES_DARK: Final = ("#56b4e9", "#f08a3c", "#2fc79b", "#e39bc6", "#e6d24a", "#9ad0f0", "#b8b8b8", "#b89ae8")
"""After Okabe and Ito (2008), told apart with every common colour blindness; darker or lighter to stand out."""


def _variables(series: tuple[str, ...], **named: str) -> str:
    return " ".join(
        [f"--{name}: {value};" for name, value in named.items()]
        + [f"--series-{at}: {value};" for at, value in enumerate(series)]
    )


_LIGHT: Final = _variables(
    SERIES_LIGHT,
    ink="#1c2024",
    quiet="#565e66",
    faint="#d5dadf",
    paper="#ffffff",
    panel="#f5f7f9",
    good="#00664b",
    bad="#a83a00",
    link="#005a9c",
)
_DARK: Final = _variables(
    SERIES_DARK,
    ink="#e6e9ec",
    quiet="#a4adb5",
    faint="#3a4249",
    paper="#15191d",
    panel="#1e2429",
    good="#52d3ab",
    bad="#ff9d5c",
    link="#8cc8ff",
)

STYLE: Final = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
* {{ box-sizing: border-box; }}
html {{ -webkit-text-size-adjust: 100%; }}
body {{ margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }}
main {{ max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }}
h1 {{ font-size: 1.75rem; line-height: 1.2; margin: .5rem 0 .25rem; }}
h2 {{ font-size: 1.3rem; line-height: 1.25; margin: 3rem 0 .4rem; padding-top: 1rem;
  border-top: 1px solid var(--faint); }}
h3 {{ font-size: 1rem; margin: 0 0 .4rem; }}
p {{ margin: 0 0 .8rem; max-width: 46rem; }}
a {{ color: var(--link); }}
.about, .note {{ color: var(--quiet); }}
.note {{ font-size: .875rem; margin: .4rem 0 0; }}
.findings {{ background: var(--panel); border-radius: .5rem; padding: 1rem 1.25rem; margin: 1.25rem 0; }}
.findings h2 {{ margin: 0 0 .5rem; padding: 0; border: 0; font-size: 1.1rem; }}
.findings ol {{ margin: 0; padding-left: 1.4rem; max-width: 54rem; }}
.findings li {{ margin: 0 0 .5rem; }}
nav {{ margin-top: 1.25rem; }}
nav ul {{ list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; }}
.lead {{ margin: .2rem 0 .8rem; padding-left: 1.2rem; max-width: 54rem; }}
.lead li {{ margin: 0 0 .3rem; }}
.parts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 1.5rem 2.25rem;
  align-items: start; margin-top: 1rem; grid-auto-flow: dense; }}
.parts > p, .parts > .wide {{ grid-column: 1 / -1; }}
.parts > * {{ min-width: 0; }}
figure {{ margin: 0; }}
figure svg {{ display: block; width: 100%; height: auto; max-width: 40rem; font-family: inherit; }}
figure svg text {{ font-family: inherit; }}
figcaption {{ margin-top: .5rem; font-size: .9375rem; max-width: 40rem; }}
figcaption .control {{ display: block; margin-top: .3rem; color: var(--quiet); font-size: .875rem; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; width: 100%; }}
caption {{ text-align: left; font-weight: 600; padding: 0 0 .4rem; }}
th, td {{ padding: .28rem .7rem .28rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--faint);
  font-weight: inherit; overflow-wrap: normal; }}
tr > :nth-child(n+3).l {{ padding-left: .7rem; }}
th:last-child, td:last-child {{ padding-right: 0; }}
thead th {{ color: var(--quiet); font-size: .8125rem; vertical-align: bottom; }}
.r {{ text-align: right; white-space: nowrap; }}
thead .r {{ white-space: normal; }}
.long {{ overflow-wrap: anywhere; min-width: 9rem; }}
thead .r.long {{ min-width: 6rem; }}
.good {{ color: var(--good); }} .bad {{ color: var(--bad); }} .faint {{ color: var(--quiet); }}
.strong {{ font-weight: 650; }}
details summary {{ cursor: pointer; color: var(--link); margin: .5rem 0; font-size: .9rem; }}
.missing {{ border-left: 3px solid var(--bad); padding: .3rem 0 .3rem .8rem; margin: .8rem 0 0; }}
pre {{ background: var(--panel); border-radius: .5rem; padding: .9rem 1rem; overflow-x: auto; font-size: .8125rem;
  line-height: 1.4; white-space: pre-wrap; }}
@media (max-width: 40rem) {{ body {{ font-size: 15px; }} h2 {{ margin-top: 2.2rem; }} }}
@media print {{
  body {{ font-size: 10.5pt; }} main {{ max-width: none; padding: 0; }} nav {{ display: none; }}
  figure, tr, .findings, .missing {{ break-inside: avoid; }} h2, h3, caption {{ break-after: avoid; }}
  .parts {{ grid-template-columns: 1fr 1fr; }} a {{ color: inherit; text-decoration: none; }}
  figcaption, table {{ font-size: 8.5pt; }} .control, .note {{ font-size: 8pt; }} .r {{ white-space: normal; }}
  .scroll {{ overflow: visible; }} .parts > .table {{ grid-column: 1 / -1; }}
}}
"""
