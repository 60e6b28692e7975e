"use strict";
(function () {
  var root = document.documentElement;
  root.classList.add("scripted");
  var wanted = location.hash === "#dark" ? "dark" : location.hash === "#light" ? "light" : null;
  function kept(value) {
    try {
      if (value) localStorage.setItem("temper-theme", value);
      return localStorage.getItem("temper-theme");
    } catch (refused) {
      return null;
    }
  }
  function now() {
    return root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  }
  wanted = wanted || kept(null);
  if (wanted === "dark" || wanted === "light") root.dataset.theme = wanted;
  var button = document.getElementById("theme");
  function label() {
    button.textContent = now() === "dark" ? "Light page" : "Dark page";
  }
  button.addEventListener("click", function () {
    root.dataset.theme = now() === "dark" ? "light" : "dark";
    kept(root.dataset.theme);
    label();
  });
  label();
  var words = document.getElementById("filter-words");
  if (!words) return;
  var role = document.getElementById("filter-role");
  var leaks = document.getElementById("filter-leaks");
  var shown = document.getElementById("filter-shown");
  var examples = Array.prototype.slice.call(document.querySelectorAll(".example"));
  function filter() {
    var sought = words.value.trim().toLowerCase();
    var count = 0;
    examples.forEach(function (example) {
      var fits =
        (!role.value || example.dataset.role === role.value) &&
        (!leaks.checked || example.dataset.leaks === "1") &&
        (!sought || example.textContent.toLowerCase().indexOf(sought) >= 0);
      example.hidden = !fits;
      if (fits) count += 1;
    });
    shown.textContent = count + " of " + examples.length + " shown";
  }
  [words, role, leaks].forEach(function (control) {
    control.addEventListener("input", filter);
  });
  filter();
})();
