/* Judges an answer by the data of its exercise, as Check.right does in Python. */
function begin(root) {
  var data = JSON.parse(atob(root.dataset.check)),
    said = root.querySelector(".cx-said"),
    inputs = Array.from(root.querySelectorAll("input"));

  /* a number as people write it: 1,234.5 or 0,5, a true minus, a fraction, a unit behind it */
  function number(text) {
    var plain = text.replace(/\u2212/g, "-").replace(/[\s%$]/g, "").replace(/^(-?0),/, "$1."),
      parts = plain.replace(/,(?=\d{3}\b)/g, "").replace(",", ".").split("/");
    if (parts.length > 2 || parts.indexOf("") >= 0) return NaN;
    return parts.length > 1 ? Number(parts[0]) / Number(parts[1]) : Number(parts[0]);
  }
  function chosen() {
    return inputs.map(function (input, i) {
      return input.checked ? i : -1;
    }).filter(function (i) {
      return i >= 0;
    });
  }
  function verdict() {
    if (data.right) return chosen().join() === data.right.join() ? data.yes : data.no;
    var given = number(inputs[0].value);
    if (isNaN(given)) return "A number, please.";
    return data.low <= given && given <= data.high ? data.yes : data.no;
  }
  function show() {
    said.textContent = verdict();
  }
  root.querySelector("button").addEventListener("click", show);
  inputs.forEach(function (input) {
    input.addEventListener("keydown", function (event) {
      if (event.key === "Enter") show();
    });
    input.addEventListener("input", function () {
      said.textContent = "";
    });
  });
}
