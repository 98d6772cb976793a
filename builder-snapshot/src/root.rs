//! (being raised)
