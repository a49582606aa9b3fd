/* Moves dots and looks texts up; computes nothing but pixels. */
function begin(root) {
  function one(s) {
    return root.querySelector(s);
  }
  var data = JSON.parse(one(".cx-data").textContent);
  var dots = Array.from(root.querySelectorAll("circle[data-i]")),
    ring = one(".cx-ring"),
    bar = one(".cx-bar"),
    svg = one(".cx-field svg");
  var at = root.querySelectorAll("input")[0],
    look = root.querySelectorAll("input")[1],
    outs = root.querySelectorAll("output");
  var n = dots.length,
    shown = -1;

  function lineAt(k) {
    var column = k < n ? (data.xs[k] - data.left) / data.step : (data.xs[n - 1] - data.left) / data.step + 1;
    return data.left + data.step * column - data.step / 2;
  }
  function spot(i, up) {
    return "translate(" + data.xs[i] + " " + (data.ys[i] + data.below + (up ? 0 : data.lane)) + ")";
  }

  /* the line moved: dots change lanes, what is wrong grows pale, the numbers are read off */
  function move() {
    var k = data.stop[+at.value];
    if (k !== shown) {
      shown = k;
      dots.forEach(function (dot, i) {
        var up = i < k,
          kind = data.kinds[i];
        dot.setAttribute("transform", spot(i, up));
        dot.classList.toggle("cx-wrong", up ? kind === 1 || kind === 3 : kind > 1);
      });
      bar.setAttribute("transform", "translate(" + lineAt(k) + " 0)");
    }
    outs[0].textContent = k + " of " + n;
    at.setAttribute("aria-valuetext", data.said[+at.value]);
    one(".cx-said").textContent = data.said[+at.value];
    card();
  }

  /* the question looked at: its texts, a ring around its dot, who answers it now */
  function card() {
    var i = +look.value - 1,
      up = i < shown;
    data.cards[i].concat([data.by[up ? 1 : 0]]).forEach(function (text, c) {
      one(".cx-c" + c).textContent = text;
    });
    outs[1].textContent = look.value;
    ring.removeAttribute("display");
    ring.setAttribute("transform", spot(i, up));
  }

  /* a place on the picture in units of the view box */
  function where(event) {
    var p = svg.createSVGPoint();
    p.x = event.clientX;
    p.y = event.clientY;
    return p.matrixTransform(svg.getScreenCTM().inverse());
  }
  function drag(event) {
    var x = where(event).x,
      k = 0;
    while (k < n && data.xs[k] < x) k++;
    at.value = k;
    move();
  }
  var dragging = false;
  svg.addEventListener("pointerdown", function (event) {
    var i = event.target.dataset ? event.target.dataset.i : undefined;
    if (i !== undefined) {
      look.value = +i + 1;
      card();
      return;
    }
    dragging = true;
    svg.setPointerCapture(event.pointerId);
    drag(event);
  });
  svg.addEventListener("pointermove", function (event) {
    if (dragging) drag(event);
  });
  ["pointerup", "pointercancel"].forEach(function (kind) {
    svg.addEventListener(kind, function () {
      dragging = false;
    });
  });
  at.addEventListener("input", move);
  look.addEventListener("input", card);
  move();
}
