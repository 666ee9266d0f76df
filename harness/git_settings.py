"""What the user has told git: identity, signing key, allowed signers. Read, never written."""

from __future__ import annotations

from pathlib import Path


def git_setting(section: str, option: str, folder: Path | None = None) -> str:
    """`git config section.option` as seen in a folder (default: the current one); "" if unset.

    The repository's own settings count over the user's and the system's.
    """
    try:
        from git import Repo
        from git.config import GitConfigParser, get_config_path
        from git.exc import GitError
    except ImportError:  # GitPython refuses to load without the git program
        return ""
    # git writes gpg.ssh.x as [gpg "ssh"] x.
    head, _, rest = section.partition(".")
    name = f'{head} "{rest}"' if rest else head
    try:
        try:
            repo = Repo(folder or Path.cwd(), search_parent_directories=True)
            return str(repo.config_reader().get_value(name, option, default=""))
        except GitError:
            files = [get_config_path(level) for level in ("system", "user", "global")]
            reader = GitConfigParser([f for f in files if Path(f).is_file()], read_only=True)
            return str(reader.get_value(name, option, default=""))
    except (OSError, ValueError, KeyError, GitError):
        return ""
