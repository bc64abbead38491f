"""Records to numbers, numbers to charts. Nothing here knows Streamlit or the store."""
