"""Which image may this pod have now? The administrator's policy, then the registry's word.

    access = Access(settings, grace_s=86400, policy=load_policy(path))
    image = access.admit(volume, credentials)

Border: nobody here mounts, indexes or downloads a layer.
"""
