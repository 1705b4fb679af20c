() => [window.dearTakes.chosen().prompt, window.dearTakes.chosen().seed, true,
  { __type__: 'update', selected: 'compare' }]
