() => { if (window.innerWidth < 820)
  [...document.querySelectorAll('.dear-results')].find((each) => each.offsetParent)
  ?.scrollIntoView({ behavior: 'smooth' }); }
