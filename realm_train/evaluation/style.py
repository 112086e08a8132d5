"""The report's style sheet: light and dark, phone and paper; every colour is named once."""

STYLE = """
:root{--page:#faf9f6;--card:#fff;--ink:#1c1e21;--soft:#62666d;--line:#e4e2dc;--c1:#2563c9;--c2:#c2570c;--c3:#0b7a63;
--good:#0b7a63;--bad:#b3261e;--warn:#8a5a00;--mark:#ffe9a8;--track:#ecebe6;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--page:#131518;--card:#1b1e23;--ink:#e8e6e1;--soft:#9a9fa8;--line:#2e3238;
--c1:#7aa9ff;--c2:#f0995a;--c3:#4fc9a8;--good:#4fc9a8;--bad:#ff8a80;--warn:#e5b567;--mark:#5c4a12;--track:#2a2e34}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:40px 24px 64px}
.eyebrow{color:var(--soft);font-size:14px;margin:0 0 12px}
.eyebrow code{font-size:13px}
h1{font:600 clamp(25px,3.6vw,40px)/1.22 Georgia,"Times New Roman",serif;margin:0 0 14px;max-width:25em;
text-wrap:balance}
h1.nothing{color:var(--bad)}h1.unclear{color:var(--warn)}
.lead{color:var(--soft);margin:0 0 28px;max-width:46em}
h2{font:600 24px/1.3 Georgia,"Times New Roman",serif;margin:52px 0 6px}
h2+p{color:var(--soft);margin:0 0 18px;max-width:50em}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(196px,1fr));gap:12px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px}
.tile b{display:block;font-size:25px;font-weight:600;line-height:1.2;font-variant-numeric:tabular-nums;
white-space:nowrap}
.tile b small{font-size:15px;font-weight:400;color:var(--soft)}
.tile span{display:block;font-size:13.5px;margin-top:2px}
.tile i{display:block;font-style:normal;font-size:12.5px;color:var(--soft);line-height:1.4}
.tile.good b{color:var(--good)}.tile.bad b{color:var(--bad)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(430px,100%),1fr));gap:14px}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 14px 8px;
min-width:0}
figure{display:flex;flex-direction:column}figure svg{margin-top:auto}
figcaption{font-size:15px;line-height:1.4;margin:0 4px 8px}
figcaption span{display:block;color:var(--soft);font-size:13px}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--soft)}
svg .end{text-anchor:end}svg .mid{text-anchor:middle}
svg .name{font-weight:600}svg .value{font-weight:400;fill:var(--soft)}svg .mark-name{font-size:11px}
.grid{stroke:var(--line)}.zero{stroke:var(--soft);stroke-dasharray:4 3}.mark{stroke:var(--soft);opacity:.45}
polyline{fill:none;stroke-linejoin:round;stroke-linecap:round}
.line,.dots,.dashes{stroke-width:2.2}.dashes{stroke-dasharray:5 4}.faint{stroke-width:1;opacity:.28}
.hover{fill:transparent}
polyline.c1{stroke:var(--c1)}polyline.c2{stroke:var(--c2)}polyline.c3{stroke:var(--c3)}
circle.c1,text.c1{fill:var(--c1)}circle.c2,text.c2{fill:var(--c2)}circle.c3,text.c3{fill:var(--c3)}
.key{display:flex;flex-wrap:wrap;gap:6px 22px;font-size:14px;color:var(--soft);margin:0 0 16px}
.key .swatch{display:inline-block;width:34px;height:8px;border-radius:4px;margin-right:7px;vertical-align:2px}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;margin:0 0 14px;padding:18px 20px 8px}
.card header{position:relative;padding-left:38px}
.number{position:absolute;left:0;top:1px;width:26px;height:26px;border-radius:50%;background:var(--track);
color:var(--soft);
font-size:13px;line-height:26px;text-align:center}
.sentence{font:18px/1.5 Georgia,"Times New Roman",serif;margin:0 0 6px}
.blank{border-bottom:2px solid var(--c2);background:color-mix(in srgb,var(--c2) 9%,transparent);
border-radius:3px 3px 0 0;
margin:0 1px}
.hidden{margin:0;font-size:14px}.source{color:var(--soft);margin-left:8px}
mark{background:var(--mark);color:inherit;border-radius:3px;padding:0 3px}
.sides{display:grid;grid-template-columns:1fr 1fr;gap:0 28px;margin-top:12px}
.sides section{min-width:0}
h4{font-size:13px;font-weight:600;color:var(--soft);margin:0 0 6px;padding-top:10px;border-top:1px solid var(--line)}
.gain{float:right;font-variant-numeric:tabular-nums;cursor:help}.gain.good{color:var(--good)}.gain.bad{
color:var(--bad)}
ol{list-style:none;margin:0 0 10px;padding:0}
li{display:grid;grid-template-columns:124px minmax(0,1fr);gap:10px;padding:5px 0;font-size:13.5px;line-height:1.42}
li.null{color:var(--soft)}
.bars{display:grid;grid-template-columns:34px 1fr;gap:6px;padding-top:2px;cursor:help}
.p{text-align:right;font-size:12px;color:var(--soft);font-variant-numeric:tabular-nums}
.track{display:block;padding-top:4px}
.prior,.posterior{display:block;border-radius:3px;min-width:2px}
.prior{height:7px;background:var(--c1)}.posterior{height:3px;background:var(--c2);margin-top:2px}
li.null .prior{background:var(--soft)}
summary{cursor:pointer;list-style:none;overflow:hidden;display:-webkit-box;-webkit-box-orient:vertical;
-webkit-line-clamp:3}
summary::-webkit-details-marker{display:none}
summary span{color:var(--soft)}summary mark{color:var(--ink)}
details[open] summary span:not(.tick-mark){display:none}
em{font-style:normal;font-size:11.5px;color:var(--c2);border:1px solid currentColor;border-radius:9px;padding:0 7px;
white-space:nowrap}
.more{margin:-6px 0 10px;font-size:13px}.more>summary{color:var(--c1);padding-left:134px}.more ol{margin:4px 0 0}
li details p{margin:4px 0 2px}
.tick-mark,summary .tick-mark{color:var(--good);font-weight:700;margin-right:5px}
table{border-collapse:collapse;width:100%;font-size:14px}
td{padding:5px 12px 5px 0;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
td:first-child{color:var(--soft);width:34%}
pre{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px;font-size:13px;
overflow-x:auto}
.fold{border-top:1px solid var(--line);padding:12px 0}.fold>summary{display:list-item;list-style:revert;
font-weight:600}
footer{color:var(--soft);font-size:13px;margin-top:36px}
@media (max-width:720px){main{padding:24px 14px 48px}.sides{grid-template-columns:1fr}.card{padding:14px 14px 6px}
.tiles{grid-template-columns:1fr 1fr;gap:8px}.tile{padding:11px 12px}.tile b{font-size:21px}.source{display:block;
margin:2px 0 0}
.more>summary{padding-left:0}svg text{font-size:14px}svg .mark-name{font-size:13px}}
@media print{:root{--page:#fff;--card:#fff;--ink:#000;--soft:#555;--line:#ccc;--c1:#2563c9;--c2:#c2570c;--c3:#0b7a63;
--good:#0b7a63;--bad:#b3261e;--mark:#ffe9a8;--track:#eee}body{font-size:11pt}main{max-width:none;padding:0}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}.card,figure,.tile{break-inside:avoid}h2{
break-after:avoid}
.charts{grid-template-columns:1fr 1fr}}
"""
