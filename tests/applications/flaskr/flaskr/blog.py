"""Posts: everybody reads them, and their author writes them."""

from flask import Blueprint, flash, g, redirect, render_template, request, url_for
from werkzeug.exceptions import abort

from flaskr.auth import login_required
from flaskr.db import get_db

bp = Blueprint("blog", __name__)

POSTS = "SELECT p.id, title, body, created, author_id, username FROM post p JOIN user u ON p.author_id = u.id"


@bp.route("/")
def index():
    posts = get_db().execute(f"{POSTS} ORDER BY created DESC, p.id DESC").fetchall()
    return render_template("blog/index.html", posts=posts)


@bp.route("/create", methods=("GET", "POST"))
@login_required
def create():
    if request.method == "POST":
        title, body = request.form["title"], request.form["body"]
        if title:
            db = get_db()
            db.execute("INSERT INTO post (title, body, author_id) VALUES (?, ?, ?)", (title, body, g.user["id"]))
            db.commit()
            return redirect(url_for("blog.index"))
        flash("A title is required.")
    return render_template("blog/create.html")


def get_post(id, check_author=True):  # noqa: A002 (the tutorial's name)
    post = get_db().execute(f"{POSTS} WHERE p.id = ?", (id,)).fetchone()
    if post is None:
        abort(404, f"There is no post {id}.")
    if check_author and post["author_id"] != g.user["id"]:
        abort(403)
    return post


@bp.route("/<int:id>/update", methods=("GET", "POST"))
@login_required
def update(id):  # noqa: A002
    post = get_post(id)
    if request.method == "POST":
        title, body = request.form["title"], request.form["body"]
        if title:
            db = get_db()
            db.execute("UPDATE post SET title = ?, body = ? WHERE id = ?", (title, body, id))
            db.commit()
            return redirect(url_for("blog.index"))
        flash("A title is required.")
    return render_template("blog/update.html", post=post)


@bp.route("/<int:id>/delete", methods=("POST",))
@login_required
def delete(id):  # noqa: A002
    get_post(id)
    db = get_db()
    db.execute("DELETE FROM post WHERE id = ?", (id,))
    db.commit()
    return redirect(url_for("blog.index"))
