"""What the options are called on a command line."""

# What a command line must repeat so that a second run does what the first one did, by option dataclass and field.
FLAGS = {
    "network": {
        "weights": "--weights",
        "device": "--device",
        "precision": "--precision",
        "size": "--size",
        "top_k": "--top-k",
        "reach": "--reach",
        "tta": "--tta",
        "adapt": "--adapt",
        "focus": "--focus",
        "anchor": "--anchor",
        "augment": "--augment",
        "gate": "--memory-gate",
        "renew": "--mem-renew",
    },
    "memory": {
        "every": "--mem-every",
        "max_slots": "--mem-max",
        "policy": "--mem-policy",
        "keep": "--mem-keep",
    },
    "segment": {
        "start": "--start",
        "end": "--end",
        "first_number": "--first-number",
        "fps": "--fps",
        "direction": "--direction",
        "on_corrupt": "--on-corrupt",
        "decoder": "--decoder",
        "soft_bits": "--soft-bits",
    },
    "export": {
        "audio": "--audio",
        "encoder": "--encoder",
        "opacity": "--opacity",
        "alpha_codec": "--alpha-codec",
        "alpha_mode": "--alpha-mode",
        "bits": "--bits",
        "background": "--background",
    },
}
SWITCHES = {
    "network": {"compile": "--compile", "together": "--together"},
    "memory": {"half": "--mem-half"},
    "segment": {"keep_soft": "--keep-soft", "keep_memory": "--keep-memory", "page": "--no-page"},
    "export": {"per_object": "--per-object", "refine": "--no-refine", "contour": "--no-contour"},
}
LISTS = {"kinds": "--export", "categories": "--category", "objects": "--objects"}
NO_OPTIONS = {"corrections": "the use of later masks"}  # stm evaluate --run alone takes them for new objects only


def flag_of(group: str, name: str) -> str:
    """Return what the field `name` of a group of options is called."""
    known = {**NO_OPTIONS, **LISTS, **FLAGS.get(group, {}), **SWITCHES.get(group, {})}
    return known.get(name, f"--{name.replace('_', '-')}")
