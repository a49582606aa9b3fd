/* Shows the next seed, its headline, and at the end all of them; computes nothing. */
function begin(root) {
  function one(s) {
    return root.querySelector(s);
  }
  var data = JSON.parse(one(".cx-data").textContent),
    cell = one("select"),
    ask = one(".cx-said").textContent;
  var dots = one(".cx-dots"),
    ticks = one(".cx-ticks"),
    bar = one(".cx-bar"),
    drawn = 0;

  function add(parent, tag, values, words) {
    var e = document.createElementNS(parent.namespaceURI, tag);
    Object.keys(values).forEach(function (key) {
      e.setAttribute(key, values[key]);
    });
    if (words !== undefined) e.textContent = words;
    parent.appendChild(e);
  }
  function empty(e) {
    while (e.firstChild) e.removeChild(e.firstChild);
  }
  function panel() {
    return data[+cell.value];
  }
  function dot(seed) {
    Array.from(dots.children).forEach(function (e) {
      e.removeAttribute("data-last");
    });
    add(dots, "circle", {cx: seed.x, cy: 46, r: 7, "data-last": "1"});
  }
  /* another cell: the axis, no seed */
  function start() {
    var p = panel();
    drawn = 0;
    empty(dots);
    empty(ticks);
    bar.setAttribute("d", "");
    p.ticks.forEach(function (t) {
      add(ticks, "text", {x: t[0], y: 115, "text-anchor": "middle"}, t[1]);
    });
    one(".cx-zero").setAttribute("transform", "translate(" + p.zero + " 0)");
    one(".cx-what").textContent = p.what;
    one(".cx-said").textContent = ask;
    one(".cx-draw").disabled = false;
  }
  function draw() {
    var p = panel();
    dot(p.seeds[drawn]);
    one(".cx-said").textContent = p.seeds[drawn].text;
    if (++drawn === p.seeds.length) one(".cx-draw").disabled = true;
  }
  function whole() {
    var p = panel();
    while (drawn < p.seeds.length) draw();
    bar.setAttribute("d", "M" + p.bar[0] + " 72V84M" + p.bar[0] + " 78H" + p.bar[2] + "M" + p.bar[2] + " 72V84M" +
      p.bar[1] + " 70V86");
    one(".cx-said").textContent = p.all;
  }
  one(".cx-draw").addEventListener("click", draw);
  one(".cx-whole").addEventListener("click", whole);
  cell.addEventListener("change", start);
  start();
}
