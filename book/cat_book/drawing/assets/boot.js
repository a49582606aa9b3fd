/*
 * Starts a widget on its elements: BEGIN becomes its function begin(root), IDENT the id. It waits for them because
 * notebooks run scripts before the output is in the page. White space is stripped: end statements with a semicolon.
 */
(function () {
  "use strict";
  var tries = 0;

  function boot() {
    var found = document.querySelectorAll('[id="IDENT"]');
    if (!found.length) {
      if (++tries < 200) setTimeout(boot, 50);
      return;
    }
    found.forEach(function (root) {
      if (!root.dataset.ready) {
        root.dataset.ready = "1";
        begin(root);
      }
    });
  }

  BEGIN;
  boot();
})();
