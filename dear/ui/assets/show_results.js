() => {
  const results = [...document.querySelectorAll('.dear-results')].find((each) => each.offsetParent);
  if (window.innerWidth < 820 && results?.getBoundingClientRect().top > window.innerHeight * 0.6)
    results.scrollIntoView({ behavior: 'smooth' });
}
