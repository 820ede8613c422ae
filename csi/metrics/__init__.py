"""What a monitoring system and the kubelet's probes ask of the driver, by HTTP.

Border: nobody here decides anything. No label holds a pod, an image or a credential.
"""
