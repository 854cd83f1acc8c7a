"use strict";
// Sorting, filtering and paging of the tables; without scripts they stand there as they are.
(() => {
  const ROWS = 50;

  function element(name, text) {
    const made = document.createElement(name);
    made.textContent = text;
    return made;
  }

  function key(row, column, numeric) {
    const text = row.cells[column].textContent;
    return numeric ? parseFloat(text.replace("\u2212", "-")) : text.toLowerCase();
  }

  function compare(one, other, numeric) {
    return numeric ? one - other : one.localeCompare(other, "en", { numeric: true });
  }

  // What is missing comes last whichever way the table is sorted.
  function sorted(rows, column, numeric, direction) {
    const missing = (value) => (numeric ? Number.isNaN(value) : value === "");
    const keyed = rows.map((row) => [key(row, column, numeric), row]);
    const there = keyed.filter(([value]) => !missing(value));
    there.sort((one, other) => direction * compare(one[0], other[0], numeric));
    return [...there, ...keyed.filter(([value]) => missing(value))].map(([, row]) => row);
  }

  function explore(table) {
    const body = table.tBodies[0];
    const found = table.closest(".table").id;
    let rows = [...body.rows];
    let page = 0;

    const tools = element("div", "");
    tools.className = "tools";
    const wanted = element("input", "");
    wanted.type = "search";
    const label = element("label", "Filter ");
    label.append(wanted);
    const flagged = element("select", "");
    const choices = [["", "all"], ["yes", "flagged"], ["no", "unflagged"]];
    const good = (row) => row.dataset.good === "yes";
    if (rows.some(good)) choices.unshift(["good", table.dataset.choice]);
    for (const [value, text] of choices) {
      const option = element("option", text);
      option.value = value;
      flagged.append(option);
    }
    const choice = element("label", "Show ");
    choice.append(flagged);
    const before = element("button", "Previous");
    const after = element("button", "Next");
    const told = element("span", "");
    told.setAttribute("role", "status");
    for (const button of [before, after]) {
      button.type = "button";
      button.setAttribute("aria-controls", found);
    }
    tools.append(label, before, after, told);
    if (table.querySelector("[data-flagged]")) label.after(choice);
    table.closest(".table").before(tools);

    function show() {
      const words = wanted.value.toLowerCase().split(/\s+/).filter(Boolean);
      const kept = rows.filter((row) => {
        const text = row.textContent.toLowerCase();
        const kind = flagged.value === "" || row.dataset.flagged === flagged.value
          || (flagged.value === "good" && good(row));
        return kind && words.every((word) => text.includes(word));
      });
      const pages = Math.max(1, Math.ceil(kept.length / ROWS));
      page = Math.min(Math.max(page, 0), pages - 1);
      const first = page * ROWS;
      const shown = kept.slice(first, first + ROWS);
      body.replaceChildren(...shown);
      before.disabled = page === 0;
      after.disabled = page === pages - 1;
      told.textContent = kept.length === 0 ? "no rows"
        : `${first + 1}–${first + shown.length} of ${kept.length} rows`;
    }

    for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
      const button = element("button", head.textContent);
      button.type = "button";
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
        rows = sorted(rows, column, head.classList.contains("number"), direction);
        page = 0;
        show();
      });
    }
    const again = () => { page = 0; show(); };
    wanted.addEventListener("input", again);
    flagged.addEventListener("change", again);
    before.addEventListener("click", () => { page -= 1; show(); });
    after.addEventListener("click", () => { page += 1; show(); });
    show();
  }

  document.querySelectorAll("table.explore").forEach(explore);
})();
