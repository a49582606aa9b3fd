/* Cost and quality of a cascade where all queries cost the same, as analysis.limits.Couple has them. */
function begin(root) {
  function one(s) {
    return root.querySelector(s);
  }
  var inputs = Array.from(root.querySelectorAll("input")),
    given = {};

  /* quality of the cascade at a deferral rate: random deferral, and a gain that vanishes at both ends */
  function cascade(r) {
    var chance = given.small + r * (given.large - given.small);
    return Math.max(0, Math.min(100, chance + given.gain * 4 * r * (1 - r)));
  }
  /* the coin between S and L, tossed before S answers, at the cost of a cascade that defers r */
  function coin(r) {
    var c = given.ratio / 100;
    var share = c < 1 ? Math.min(r / (1 - c), 1) : 1;
    return given.small + share * Math.max(given.large - given.small, 0);
  }
  function money(x) {
    return x.toFixed(x < 10 ? 2 : 0) + " $";
  }
  function signed(x) {
    return (x < 0 ? "\u2212" : "+") + Math.abs(x).toFixed(1);
  }

  function draw() {
    inputs.forEach(function (input) {
      given[input.dataset.key] = +input.value;
      input.previousElementSibling.textContent = input.value + " " + input.dataset.unit;
    });
    var c = given.ratio / 100,
      r = given.rate / 100,
      cost = c + r;
    var low = Math.max(0, Math.min(given.small, given.large) - 10),
      high = Math.min(100, Math.max(given.small, given.large, cascade(r)) + 6),
      most = Math.max(1.05, c + 1);
    function x(v) {
      return 50 + 490 * v / most;
    }
    function y(v) {
      return 220 - 200 * (v - low) / (high - low || 1);
    }
    function put(s, v, q) {
      one(s).setAttribute("transform", "translate(" + x(v).toFixed(1) + " " + y(q).toFixed(1) + ")");
    }
    var walk = [],
      i;
    for (i = 0; i <= 50; i++) walk.push(x(c + i / 50).toFixed(1) + " " + y(cascade(i / 50)).toFixed(1));
    one(".cx-walk").setAttribute("d", "M" + walk.join("L"));
    one(".cx-coin").setAttribute("d", "M" + x(c) + " " + y(given.small) + "L" + x(1) + " " + y(coin(1)));
    put(".cx-s", c, given.small);
    put(".cx-l", 1, given.large);
    put(".cx-now", cost, cascade(r));
    put(".cx-ts", c, given.small);
    put(".cx-tl", 1, given.large);
    var ticks = one(".cx-ticks");
    while (ticks.firstChild) ticks.removeChild(ticks.firstChild);
    function tick(px, py, anchor, words) {
      var t = document.createElementNS(ticks.namespaceURI, "text");
      t.setAttribute("x", px);
      t.setAttribute("y", py);
      t.setAttribute("text-anchor", anchor);
      t.textContent = words;
      ticks.appendChild(t);
    }
    for (i = 0; i <= most * 100; i += 25) tick(x(i / 100), 238, "middle", i);
    for (i = 0; i <= 4; i++) {
      var level = low + i * (high - low) / 4;
      tick(44, y(level) + 4, "end", Math.round(level));
    }
    var over = cascade(r) - coin(r),
      saved = Math.round(100 * (1 - cost));
    one(".cx-said").textContent = "The cascade is right on " + cascade(r).toFixed(1) + " % at " +
      (100 * cost).toFixed(0) + " % of the cost of L, " + money(given.price * cost) + " a million answers: " +
      (saved >= 0 ? "it saves " + saved + " %" : "it costs " + (-saved) + " % more") +
      ". It is cheaper than L below a deferral rate of " + (100 * Math.max(0, 1 - c)).toFixed(0) +
      " %. Beside a coin of the same cost: " + signed(over) + " points" +
      (over > 0.05 ? "." : ", so that S's answer was not worth its price.");
  }
  inputs.forEach(function (input) {
    input.addEventListener("input", draw);
  });
  draw();
}
