def own_folder(out, marker):
    """Refuse to replace a folder that this script did not write: one that holds things, but no `marker`."""
    out = Path(out)
    if out.exists() and not (out / marker).is_file() and (not out.is_dir() or any(out.iterdir())):
        refuse(f"{out} holds other things, which would be deleted", "a folder of its own", "--out OTHER")
