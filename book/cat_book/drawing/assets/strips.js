/* Moves the marks of all strips to a stop of the slider, and shows one group; computes nothing. */
function begin(root) {
  var data = JSON.parse(root.querySelector(".cx-data").textContent),
    at = root.querySelector("input"),
    which = root.querySelector("select"),
    groups = Array.from(root.querySelectorAll(".cx-group")),
    strips = Array.from(root.querySelectorAll("li.cx-strip"));

  function pick(list, k) {
    return list[list.length > 1 ? k : 0];
  }
  function set(parent, s, values) {
    var e = parent.querySelector(s);
    Object.keys(values).forEach(function (key) {
      e.setAttribute(key, values[key] + "%");
    });
  }
  function move() {
    var k = +at.value;
    strips.forEach(function (strip, r) {
      var row = data.rows[r];
      strip.className = "cx-strip cx-k" + pick(row.k, k);
      strip.querySelector(".cx-now").textContent = pick(row.t, k);
      if (row.b.length > 1) set(strip, ".cx-band", {x: row.b[k][0], width: row.b[k][1]});
      if (row.i.length > 1) {
        set(strip, ".cx-bar", {x1: row.i[k][0], x2: row.i[k][2]});
        set(strip, ".cx-at", {cx: row.i[k][1]});
      }
      if (row.d.length > 1) {
        strip.querySelectorAll(".cx-dot").forEach(function (dot, n) {
          dot.setAttribute("cx", row.d[k][n] + "%");
        });
      }
    });
    root.querySelector("output").textContent = data.stops[k];
    at.setAttribute("aria-valuetext", data.stops[k]);
    root.querySelector(".cx-said").textContent = data.said[k];
  }
  function show() {
    groups.forEach(function (group, i) {
      group.classList.toggle("cx-hidden", i !== +which.value);
    });
  }
  if (at) at.addEventListener("input", move);
  if (which) {
    which.addEventListener("change", show);
    show();
  }
}
