"""Compare generated sounds with real ones: metrics, a report page, and a listening test."""
