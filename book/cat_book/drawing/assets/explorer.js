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
  var said = one(".cx-summary"),
    dots = all(".cx-dot"),
    curves = all(".cx-curve"),
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
  function place(which, row, k) {
    var v = cols[row[which === "rate" ? 4 : 3]][k];
    return (data.left + data.width * v / data.span[which]).toFixed(1) + " " + (cols[row[6]][k] / 10).toFixed(1);
  }

  /* the slider moved: numbers, dots, the line and what is read aloud */
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
    all(".cx-x,.cx-line").forEach(function (e) {
      var d = e.dataset;
      var show = d.axis === which && (!d.rule || d.rule === name);
      if (show) e.removeAttribute("display"); else e.setAttribute("display", "none");
    });
    move();
  }
  slider.addEventListener("input", move);
  rule.addEventListener("change", draw);
  radios.forEach(function (r) {
    r.addEventListener("change", draw);
  });
  draw();
}
