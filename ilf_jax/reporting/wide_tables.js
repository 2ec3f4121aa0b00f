// Says of tables and figures that are cut at the right that they scroll.
"use strict";
for (const box of document.querySelectorAll(".scroll")) {
  const hint = box.previousElementSibling;
  const update = () => { hint.hidden = box.scrollWidth <= box.clientWidth + 1; };
  new ResizeObserver(update).observe(box);
  new ResizeObserver(update).observe(box.firstElementChild);
}
