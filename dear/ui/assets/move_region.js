(start, end) => {
  const plot = document.querySelector('#edit-map .dear-plot');
  if (!plot) return;
  plot.style.setProperty('--from', start / Number(plot.dataset.seconds));
  plot.style.setProperty('--to', Math.max(start, end) / Number(plot.dataset.seconds));
}
