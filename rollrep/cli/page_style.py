"""How the timeline's page looks: light and dark, on a wide screen and on a phone; fonts are the reader's own."""

STYLE = """
:root{--bg:#f6f5f1;--card:#fff;--ink:#1d2329;--dim:#69727b;--rule:#e3e1da;--fine:#2f7d6b;--fine2:#cfe5de;
--snap:#1d2329;--label:#c2571a;--hole:#c8414b;--code:#f1f0eb;--s1:#2f7d6b;--s2:#6aa79a;--s3:#d39a3a;--s4:#8a94a0;
--s5:#b7a6d6;--s6:#d9c9c0}
@media(prefers-color-scheme:dark){:root{--bg:#14181c;--card:#1c2127;--ink:#e6e8ea;--dim:#929ba5;--rule:#2d343c;
--fine:#4fb39a;--fine2:#24443c;--snap:#f0f2f4;--label:#f0945a;--hole:#ef6b74;--code:#252b32;--s1:#4fb39a;--s2:#3a7e6f;
--s3:#d9a751;--s4:#7d8792;--s5:#9684c4;--s6:#7a6a62}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;
-webkit-text-size-adjust:100%}
main{max-width:1080px;margin:0 auto;padding:40px 24px 32px}
h1{font-size:34px;line-height:1.1;margin:0;letter-spacing:-.02em;overflow-wrap:anywhere}
h2{font-size:17px;margin:0;letter-spacing:-.005em}
.lead{margin:8px 0 22px;color:var(--dim)}
.lead time{color:var(--ink);white-space:nowrap}
.figures{display:grid;grid-template-columns:repeat(6,1fr);gap:1px;background:var(--rule);border:1px solid var(--rule);
border-radius:12px;overflow:hidden}
.figures div{background:var(--card);padding:14px 16px}
.figures b{display:block;font-size:19px;line-height:1.25;font-weight:600;font-variant-numeric:tabular-nums}
.figures span{color:var(--dim);font-size:12.5px;line-height:1.3;display:block}
section{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:20px 22px;margin-top:18px}
.note{color:var(--dim);font-size:13.5px;margin:6px 0 0}
.lanes{margin:16px 8px 0}
.lane+.lane{margin-top:20px}
.lane p{margin:0 -8px 8px;font-size:13.5px}
.lane p span{color:var(--dim)}
.track{position:relative;height:30px;border-radius:6px;background:
repeating-linear-gradient(90deg,var(--rule) 0 1px,transparent 1px 25%)}
.track i{position:absolute;display:block}
.track .fine{top:9px;height:12px;min-width:4px;border-radius:6px;background:var(--fine)}
.track .hole{top:6px;height:18px;min-width:4px;border-radius:3px;background:
repeating-linear-gradient(135deg,var(--hole) 0 3px,var(--card) 3px 6px);border:1px solid var(--hole)}
.track .snap{top:10px;width:10px;height:10px;margin-left:-5px;border-radius:50%;background:var(--card);
border:2.5px solid var(--snap)}
.track .pin{top:8px;width:14px;height:14px;margin-left:-7px;background:var(--label)}
.track .label{top:-2px;width:9px;height:9px;margin-left:-4.5px;background:var(--label);transform:rotate(45deg);
border:1px solid var(--card)}
.track i:hover{outline:2px solid var(--ink);outline-offset:1px;z-index:2}
.points{position:relative;height:7px;margin-top:3px}
.points i{position:absolute;top:0;bottom:0;background:var(--fine);border-radius:1px}
.axis{position:relative;height:20px;margin-top:10px;font-size:12px;color:var(--dim);
font-variant-numeric:tabular-nums;border-top:1px solid var(--rule)}
.axis span{position:absolute;top:4px;transform:translateX(-50%);white-space:nowrap}
.axis span:first-child{transform:translateX(-8px)}.axis span:last-child{transform:translateX(calc(-100% + 8px))}
.legend{display:flex;flex-wrap:wrap;gap:6px 20px;margin:20px 0 0;font-size:13px;color:var(--dim)}
.legend span{display:flex;align-items:center;gap:8px}
.legend i{display:block;flex:none}
.k-fine{width:22px;height:10px;border-radius:5px;background:var(--fine)}
.k-snap{width:10px;height:10px;border-radius:50%;border:2.5px solid var(--snap)}
.k-pin{width:13px;height:13px;border-radius:50%;border:2.5px solid var(--snap);background:var(--label)}
.k-label{width:8px;height:8px;background:var(--label);transform:rotate(45deg)}
.k-hole{width:22px;height:12px;border-radius:3px;border:1px solid var(--hole);background:
repeating-linear-gradient(135deg,var(--hole) 0 3px,transparent 3px 6px)}
.lag{display:flex;align-items:flex-end;gap:1px;height:92px;margin-top:14px;border-bottom:1px solid var(--rule)}
.lag i{flex:1 1 0;min-width:1px;max-width:22px;background:var(--fine);border-radius:2px 2px 0 0}
.lag i:hover{background:var(--label)}
.ends{display:flex;justify-content:space-between;gap:16px;font-size:12px;color:var(--dim);margin-top:5px}
.stack{display:flex;height:16px;border-radius:8px;overflow:hidden;margin:14px 0 8px;gap:1px}
.stack i{min-width:2px}
.s-mirror{background:var(--s1)}.s-archive{background:var(--s2)}.s-snapshots{background:var(--s3)}
.s-catalog{background:var(--s4)}.s-cache{background:var(--s5)}.s-trash{background:var(--s6)}
.space td i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:10px}
.space td:last-child{color:var(--dim)}
summary{cursor:pointer;list-style:none;display:flex;align-items:baseline;gap:10px}
summary::-webkit-details-marker{display:none}
summary::after{content:"+";margin-left:auto;color:var(--dim);font-size:18px;line-height:1}
details[open]>summary::after{content:"\\2212"}
summary span{color:var(--dim);font-size:13.5px}
.scroll{overflow-x:auto;margin:10px -22px -8px;padding:0 22px}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th{text-align:left;font-weight:500;color:var(--dim);padding:4px 14px 6px 0;white-space:nowrap}
td{padding:7px 14px 7px 0;border-top:1px solid var(--rule);vertical-align:top;overflow-wrap:break-word}
.scroll td{min-width:5.5em;max-width:30em}
td:first-child,td.n{white-space:nowrap}
.space td{border-top:0;padding:3px 14px 3px 0}.space{width:auto}
code{font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;background:var(--code);border-radius:5px;
padding:2px 6px;white-space:nowrap;user-select:all}
code:empty{display:none}
footer{color:var(--dim);font-size:12.5px;margin:22px 2px 0}
@media(max-width:720px){main{padding:24px 14px}h1{font-size:27px}.figures{grid-template-columns:repeat(2,1fr)}
section{padding:16px}.scroll{margin:10px -16px -6px;padding:0 16px}.axis span:nth-child(even){display:none}
.space{width:100%}}
@media print{body{background:#fff}section{break-inside:avoid}}
"""
