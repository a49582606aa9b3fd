/* Each fold says what is in it; the theme calls all of them "Toggle hidden content". */
document.addEventListener("DOMContentLoaded", function () {
  function name() {
    document.querySelectorAll(".admonition button.toggle-button").forEach(function (button) {
      var title = button.closest(".admonition").querySelector(".admonition-title");
      button.setAttribute("aria-label", "Show or hide: " + title.textContent.trim());
    });
  }
  setTimeout(name, 0);
});
