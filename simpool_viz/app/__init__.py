"""The app in the browser."""

from simpool_viz.app.stubs import without_stubs

without_stubs()  # before any module of the app imports Gradio
