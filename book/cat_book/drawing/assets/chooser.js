/* Shows the panel that was chosen, by name or on a picture; without this script all stand one below the other. */
function begin(root) {
  var which = root.querySelector("select"),
    panels = Array.from(root.querySelector(".cx-panels").children),
    plane = root.querySelector(".cx-plane"),
    marks = plane ? Array.from(plane.querySelectorAll("[data-i]")) : [];

  function show() {
    panels.forEach(function (panel, i) {
      panel.classList.toggle("cx-hidden", i !== +which.value);
    });
    marks.forEach(function (mark) {
      mark.classList.toggle("cx-chosen", mark.dataset.i === which.value);
    });
  }
  /* the mark next to the pointer, within the width of a finger */
  function pick(event) {
    var least = 44,
      next;
    marks.forEach(function (mark) {
      var box = mark.querySelector(".cx-ring").getBoundingClientRect(),
        far = Math.hypot(event.clientX - (box.left + box.right) / 2, event.clientY - (box.top + box.bottom) / 2);
      if (far < least) {
        least = far;
        next = mark.dataset.i;
      }
    });
    if (next !== undefined && next !== which.value) {
      which.value = next;
      show();
    }
  }
  if (plane) {
    plane.addEventListener("click", pick);
    plane.addEventListener("pointermove", function (event) {
      if (event.pointerType === "mouse") pick(event);
    });
  }
  which.addEventListener("change", show);
  show();
}
