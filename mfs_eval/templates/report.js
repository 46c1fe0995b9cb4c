"use strict";
// Draws the charts, and keeps what the reader chose in the address: #PLACE or #PLACE?show=mfs,fifo&testbed=28.
(async () => {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const boxes = [...document.querySelectorAll("[data-policy]")];
  const selects = [...document.querySelectorAll("select[data-section]")];
  const [place, query] = location.hash.slice(1).split("?");
  const chosen = new URLSearchParams(query || "");
  const asked = chosen.get("show")?.split(",");
  if (asked) for (const box of boxes) box.checked = asked.includes(box.dataset.policy);
  for (const select of selects) {
    const rate = chosen.get(select.dataset.section);
    if ([...select.options].some((option) => option.value === rate)) select.value = rate;
  }

  const font = "system-ui, sans-serif";
  const config = {
    background: null,
    font,
    axis: { labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
    legend: { labelFontSize: 12, titleFontSize: 12, symbolSize: 120 },
    view: { stroke: null },
    aria: true,
  };
  const views = [];
  for (const element of document.querySelectorAll("[data-chart]")) {
    const name = element.dataset.chart;
    const { view } = await vegaEmbed(element, specs[name], { renderer: "svg", actions: false, config });
    views.push({ view, name });
  }
  const set = (view, signal, value) => {
    try { view.signal(signal, value).run(); } catch { /* a chart that does not depend on it */ }
  };
  const shown = () => boxes.filter((box) => box.checked).map((box) => box.dataset.policy);
  const follow = () => {
    for (const { view, name } of views) {
      set(view, "shown", shown());
      const select = selects.find((one) => name.startsWith(one.dataset.section + "-"));
      if (select) set(view, "rate", Number(select.value));
    }
  };
  const remember = () => {
    const state = new URLSearchParams();
    if (boxes.some((box) => box.checked !== box.defaultChecked)) state.set("show", shown().join(","));
    for (const select of selects) {
      if (select.selectedIndex !== select.options.length - 1) state.set(select.dataset.section, select.value);
    }
    const at = location.hash.slice(1).split("?")[0];
    history.replaceState(null, "", "#" + at + (state.size ? "?" + state : ""));
  };
  for (const box of boxes) box.addEventListener("change", () => { follow(); remember(); });
  for (const select of selects) {
    select.addEventListener("change", () => {
      for (const other of selects) if (other.dataset.section === select.dataset.section) other.value = select.value;
      follow();
      remember();
    });
  }
  follow();

  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value;
      const order = (a, b) => (isNaN(value(a)) ? value(a).localeCompare(value(b)) : value(a) - value(b));
      const rows = [...table.tBodies[0].rows].sort((a, b) => (down ? order(b, a) : order(a, b)));
      table.tBodies[0].append(...rows);
    }));
  }
  if (place) document.getElementById(place)?.scrollIntoView();
  document.documentElement.dataset.ready = views.length;
})();
