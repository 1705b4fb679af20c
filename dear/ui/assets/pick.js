element.addEventListener('click', (e) => {
  const family = e.target.closest('[data-panel]');
  if (family) {
    const opened = family.getAttribute('aria-expanded') !== 'true';
    element.querySelectorAll('[data-panel]').forEach((each) => {
      const shown = each === family && opened;
      each.setAttribute('aria-expanded', shown);
      document.getElementById(each.dataset.panel).hidden = !shown;
    });
    return;
  }
  const button = e.target.closest('[data-prompt], [data-random]');
  if (!button) return;
  const any = (list) => list[Math.floor(Math.random() * list.length)];
  const random = () => {
    const sounds = [...document.querySelectorAll('[data-clause]')];
    const [one, two] = [any(sounds), any(sounds)];
    const joint = any(['', ', then ', ' while ']);
    return joint && one !== two ? one.dataset.clause + joint + two.dataset.clause : one.dataset.prompt;
  };
  window.dearPicked = button.dataset.prompt ?? random();
  trigger('click');
});
