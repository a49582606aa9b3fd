/* Looks up what stands under the microscope: a sentence, a step, a token. */
function begin(root) {
  function one(s) {
    return root.querySelector(s);
  }
  var data = JSON.parse(one(".cx-data").textContent);
  var which = one("select"),
    at = one("input"),
    box = one(".cx-tokens"),
    rows = Array.from(root.querySelectorAll("tbody tr")),
    chosen = 0;

  function panel() {
    return data.panels[+which.value];
  }
  /* another sentence: its tokens as buttons */
  function sentence() {
    var p = panel(),
      model = box.children[0];
    chosen = 0;
    one(".cx-prompt").textContent = p.prompt;
    while (box.children.length > p.words.length) box.removeChild(box.lastChild);
    while (box.children.length < p.words.length) box.appendChild(model.cloneNode(true));
    Array.from(box.children).forEach(function (button, i) {
      button.dataset.i = i;
      button.firstChild.textContent = data.texts[p.words[i]];
    });
    step();
  }
  /* another step: who is right on each token now */
  function step() {
    var look = panel().steps[+at.value],
      words = data.steps[+at.value] + " of " + data.steps[data.steps.length - 1];
    Array.from(box.children).forEach(function (button, i) {
      var kind = data.kinds[look.tokens[i][0]];
      button.style.background = kind[0];
      button.lastChild.textContent = kind[1];
    });
    one("output").textContent = words;
    at.setAttribute("aria-valuetext", words + ". " + look.said);
    one(".cx-said").textContent = look.said;
    token();
  }
  /* the token looked at: guesses, the mask, and the push on S's logits */
  function token() {
    var p = panel(),
      seen = p.steps[+at.value].tokens[chosen];
    Array.from(box.children).forEach(function (button, i) {
      button.setAttribute("aria-pressed", i === chosen ? "true" : "false");
    });
    [data.texts[p.words[chosen]], data.texts[seen[1][0]], data.texts[seen[1][1]], data.kinds[seen[0]][2]].forEach(
      function (text, c) {
        one(".cx-c" + c).textContent = text;
      });
    rows.forEach(function (row, r) {
      var values = seen[2][r],
        width = data.half * Math.abs(values ? values[3] : 0),
        bar = row.querySelector("rect");
      row.hidden = !values;
      if (!values) return;
      row.children[0].textContent = data.texts[values[0]];
      row.children[1].textContent = values[1] + " %";
      row.children[2].textContent = values[2] + " %";
      bar.setAttribute("width", width.toFixed(1));
      bar.setAttribute("x", (data.half - (values[3] < 0 ? width : 0)).toFixed(1));
      bar.setAttribute("class", values[3] > 0 ? "cx-up" : "cx-down");
      row.querySelector("span").textContent = values[4];
    });
  }
  box.addEventListener("click", function (event) {
    var button = event.target.closest("button");
    if (!button) return;
    chosen = +button.dataset.i;
    token();
  });
  which.addEventListener("change", sentence);
  at.addEventListener("input", step);
  sentence();
}
