/* Looks rows up and moves things; computes nothing but pixels. Starts from the controls: browsers restore them. */
function begin(root) {
  function all(s) {
    return Array.from(root.querySelectorAll(s));
  }
  function one(s) {
    return root.querySelector(s);
  }
  var data = JSON.parse(one(".cx-data").textContent);
  /* each column as a list of texts, one for each position of the slider */
  var cols = data.cols.map(function (c) {
    return c.split(" ");
  });
  var slider = one("input[type=range]"),
    out = one("output"),
    rule = one("select"),
    radios = all("input[type=radio]");
  var said = one(".cx-said"),
    dots = all(".cx-dot"),
    curves = all(".cx-curve"),
    bands = all(".cx-band"),
    switches = all(".cx-switch"),
    svg = one("svg[role=img]"),
    trs = all("tbody tr");
  var guide = one('.cx-x[data-axis="rate"] .cx-guide');
  var cells = trs.map(function (tr) {
    return Array.from(tr.querySelectorAll("td"));
  });

  function minus(t) {
    return t.replace(/-/g, "\u2212");
  }
  function shown(row, k) {
    return data.before + minus(cols[row[0]][k]) + data.after;
  }
  function axis() {
    return radios.filter(function (r) {
      return r.checked;
    })[0].value;
  }
  /* where the point of a row at position k lies, in pixels of the view box */
  function at(which, row, k) {
    return data.left + data.width * cols[row[which === "rate" ? 4 : 3]][k] / data.span[which];
  }
  function place(which, row, k) {
    return at(which, row, k).toFixed(1) + " " + (cols[row[6]][k] / 10).toFixed(1);
  }

  function around(which, row) {
    var there = cols[row[7]].map(function (low, k) {
      return at(which, row, k).toFixed(1) + " " + (low / 10).toFixed(1);
    });
    var back = cols[row[8]].map(function (high, k) {
      return at(which, row, k).toFixed(1) + " " + (high / 10).toFixed(1);
    });
    return "M" + there.concat(back.reverse()).join("L") + "z";
  }

  /* the slider moved: numbers, dots, the bands of the first and the best, the line, what is read aloud */
  function move() {
    var k = +slider.value,
      which = axis(),
      table = data.rules[+rule.value],
      now = data.grid[k],
      heard = [];
    var best = +cols[table.best][k];
    table.rows.forEach(function (row, m) {
      for (var c = 0; c < 6; c++) cells[m][c].textContent = minus(cols[row[c]][k]);
      trs[m].classList.toggle("cx-best", m === best);
      dots[m].setAttribute("transform", "translate(" + place(which, row, k) + ")");
      heard.push(data.names[m] + " " + shown(row, k));
    });
    bands.forEach(function (band) {
      band.classList.toggle("cx-lit", +band.dataset.m === 0 || +band.dataset.m === best);
    });
    guide.setAttribute("transform", "translate(" +
      (data.left + data.width * now / data.span.rate).toFixed(1) + " 0)");
    out.textContent = now + " %";
    slider.setAttribute("aria-valuetext", "deferral rate " + now + " %, " + heard.join(", "));
    said.textContent = "Highest here: " + data.names[best] + " with " + shown(table.rows[best], k) + ", at " +
      cols[table.rows[best][2]][k] + " % of the FLOPs of L.";
  }

  /* the rule or the axis changed: curves and axes, then what `move` draws */
  function draw() {
    var which = axis(),
      table = data.rules[+rule.value];
    var name = rule.options[rule.selectedIndex].dataset.rule;
    table.rows.forEach(function (row, m) {
      curves[m].setAttribute("d", "M" + cols[row[6]].map(function (_, k) {
        return place(which, row, k);
      }).join("L"));
    });
    bands.forEach(function (band) {
      band.setAttribute("d", around(which, table.rows[+band.dataset.m]));
    });
    all(".cx-x,.cx-line").forEach(function (e) {
      var d = e.dataset;
      var show = d.axis === which && (!d.rule || d.rule === name);
      if (show) e.removeAttribute("display"); else e.setAttribute("display", "none");
    });
    move();
  }
  /* a method is switched off or on: curve, band, dot and row */
  function toggle(button) {
    var m = +button.dataset.m,
      on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", on ? "true" : "false");
    bands.filter(function (band) {
      return +band.dataset.m === m;
    }).concat([curves[m], dots[m], trs[m]]).forEach(function (e) {
      e.classList.toggle("cx-hidden", !on);
    });
  }

  /* a place on the picture: the position whose point of the first method lies nearest */
  function point(event) {
    var p = svg.createSVGPoint(),
      which = axis(),
      row = data.rules[+rule.value].rows[0],
      best = 0,
      least = Infinity;
    p.x = event.clientX;
    p.y = event.clientY;
    p = p.matrixTransform(svg.getScreenCTM().inverse());
    data.grid.forEach(function (rate, k) {
      var x = which === "rate" ? data.left + data.width * rate / data.span.rate : at(which, row, k);
      if (Math.abs(x - p.x) < least) {
        least = Math.abs(x - p.x);
        best = k;
      }
    });
    slider.value = best;
    move();
  }
  var dragging = false;
  svg.addEventListener("pointerdown", function (event) {
    dragging = true;
    svg.setPointerCapture(event.pointerId);
    point(event);
  });
  svg.addEventListener("pointermove", function (event) {
    if (dragging) point(event);
  });
  ["pointerup", "pointercancel"].forEach(function (kind) {
    svg.addEventListener(kind, function () {
      dragging = false;
    });
  });
  switches.forEach(function (button) {
    button.addEventListener("click", function () {
      toggle(button);
    });
  });
  slider.addEventListener("input", move);
  rule.addEventListener("change", draw);
  radios.forEach(function (r) {
    r.addEventListener("change", draw);
  });
  draw();
}
