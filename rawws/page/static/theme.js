// The theme: the system's, unless the reader has chosen one, which this browser then keeps.

const NAME = "rawws-theme";

export function chooseTheme(select) {
  const apply = () => {
    if (select.value) document.documentElement.dataset.theme = select.value;
    else delete document.documentElement.dataset.theme;
  };
  try {
    select.value = localStorage.getItem(NAME) ?? "";
  } catch {
    // Then it is the system's.
  }
  if (select.selectedIndex < 0) select.value = "";
  apply();
  select.addEventListener("change", () => {
    apply();
    try {
      if (select.value) localStorage.setItem(NAME, select.value);
      else localStorage.removeItem(NAME);
    } catch {
      // It is kept until the page goes.
    }
  });
}
