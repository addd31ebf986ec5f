"""Tables, figures and the written report: pure functions of run records."""
