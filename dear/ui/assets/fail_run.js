(now) => [{ __type__: 'update', interactive: false },
  String(now).includes('dear-waiting') ? window.dearStatus : now]
