/* Shows the panel that was chosen; without this script all stand one below the other. */
function begin(root) {
  var which = root.querySelector("select"),
    panels = Array.from(root.querySelector(".cx-panels").children);

  function show() {
    panels.forEach(function (panel, i) {
      panel.classList.toggle("cx-hidden", i !== +which.value);
    });
  }
  which.addEventListener("change", show);
  show();
}
