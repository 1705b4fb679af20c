(what) => {
  const plot = document.querySelector('#edit-map .dear-plot');
  if (plot) plot.dataset.region = what === 'REDRAW' ? 'shown' : 'none';
}
