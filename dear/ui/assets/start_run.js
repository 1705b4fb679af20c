(before) => {
  window.dearStatus = before;
  window.dearClicked = performance.now();
  return [{ __type__: 'update', interactive: true }, `<div class="dear-facts dear-waiting">
    <p class="dear-headline" role="status">Waiting to start</p><div class="dear-bar"></div></div>`];
}
