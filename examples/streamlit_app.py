"""A streamlit app that classifies the rows of a CSV file.

Run it by `pip install "llmbatch[pandas]" streamlit` and `streamlit run streamlit_app.py`. Each session has one batch. A
click that reruns the script, Stop, and a closed tab end it: the rest is not sent. The checkpoint keeps what is done.
"""

import tempfile
from pathlib import Path

import pandas as pd
import streamlit as st

from llmbatch import as_completed

if "checkpoint" not in st.session_state:
    st.session_state.checkpoint = Path(tempfile.mkdtemp()) / "answers.jsonl"

st.title("Reviews")
uploaded = st.file_uploader("A CSV file with a column named review", type="csv")
reviews = pd.DataFrame({"review": ["Lovely place.", "Never again."]}) if uploaded is None else pd.read_csv(uploaded)

if st.button("Classify"):
    prompts = [f"One word for the mood of: {review}" for review in reviews["review"]]
    answers, bar = ["" for _ in prompts], st.progress(0.0)
    rows = as_completed(prompts, "gpt-4o-mini", checkpoint=st.session_state.checkpoint)
    for done, (index, row) in enumerate(rows, 1):
        answers[index] = row.get("error") or row["choices"][0]["message"]["content"]
        bar.progress(done / len(prompts), f"{done} of {len(prompts)} rows")
    st.session_state.answered = reviews.assign(answer=answers)

if "answered" in st.session_state:
    st.dataframe(st.session_state.answered)
    st.download_button("Download", st.session_state.answered.to_csv(index=False), "answers.csv")
