// Light or dark, as chosen here before, or else as the system has it. Before the page is drawn.
"use strict";

{
  const chosen = localStorage.getItem("ebus-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
