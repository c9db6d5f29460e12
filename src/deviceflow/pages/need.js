// The login goes on in a new tab. This one shows how it goes.
document.querySelector("form").addEventListener("submit", () => {
  setTimeout(() => location.replace("?started=1"), 1500);
});
