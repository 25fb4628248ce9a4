// Fetches the page every few seconds and puts the new figures in the place of the old ones.
"use strict";
(() => {
  const page = () => document.getElementById("ring-page");
  const seconds = Number(page().dataset.refresh);
  const refresh = async () => {
    if (document.hidden || document.activeElement?.closest("#ring-page form")) return;
    try {
      const answer = await fetch(location.href, { headers: { "X-Requested-With": "fetch" } });
      if (!answer.ok || answer.redirected) return;
      const next = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("ring-page");
      if (!next) return;
      const open = [...page().querySelectorAll("details")].map((each) => each.open);
      next.querySelectorAll("details").forEach((each, at) => { each.open = open[at] ?? false; });
      page().replaceWith(document.adoptNode(next));
    } catch {
      page().querySelector(".when").textContent = "The site does not answer; these figures are old.";
    }
  };
  setInterval(refresh, seconds * 1000);
})();
