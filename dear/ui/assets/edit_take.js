async () => [await window.dearTakes.upload(), window.dearTakes.chosen().prompt,
  { __type__: 'update', selected: 'edit' }]
