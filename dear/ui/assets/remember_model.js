(text) => { try { localStorage.audiodearModel = text; } catch {} }
