//! Measurements, not judgements: ignored, printed.
