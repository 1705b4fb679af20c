() => { document.querySelector('.dear-tabs').inert = false; }
