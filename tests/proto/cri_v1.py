"""CRI v1 on the wire, as cri-api v0.37 has it: what the descriptors are compared with."""

from __future__ import annotations

SERVICES = {
    "ImageService": {
        "ListImages": ("ListImagesRequest", "ListImagesResponse"),
        "StreamImages": ("StreamImagesRequest", "stream StreamImagesResponse"),
        "ImageStatus": ("ImageStatusRequest", "ImageStatusResponse"),
        "PullImage": ("PullImageRequest", "PullImageResponse"),
        "RemoveImage": ("RemoveImageRequest", "RemoveImageResponse"),
        "ImageFsInfo": ("ImageFsInfoRequest", "ImageFsInfoResponse"),
    },
    "RuntimeService": {
        "Version": ("VersionRequest", "VersionResponse"),
        "ListContainers": ("ListContainersRequest", "ListContainersResponse"),
        "Status": ("StatusRequest", "StatusResponse"),
    },
}

MESSAGES: dict[str, set[str]] = {
    "ListImagesRequest": {
        "1 ImageFilter filter",
    },
    "ImageFilter": {
        "1 ImageSpec image",
    },
    "ImageSpec": {
        "1 string image",
        "2 map<string,string> annotations",
        "18 string user_specified_image",
        "19 string runtime_handler",
        "20 string image_ref",
    },
    "ListImagesResponse": {
        "1 repeated Image images",
    },
    "Image": {
        "1 string id",
        "2 repeated string repo_tags",
        "3 repeated string repo_digests",
        "4 uint64 size",
        "5 Int64Value uid",
        "6 string username",
        "7 ImageSpec spec",
        "8 bool pinned",
    },
    "Int64Value": {
        "1 int64 value",
    },
    "StreamImagesRequest": {
        "1 ImageFilter filter",
    },
    "StreamImagesResponse": {
        "1 repeated Image images",
    },
    "ImageStatusRequest": {
        "1 ImageSpec image",
        "2 bool verbose",
    },
    "ImageStatusResponse": {
        "1 Image image",
        "2 map<string,string> info",
    },
    "PullImageRequest": {
        "1 ImageSpec image",
        "2 AuthConfig auth",
        "3 PodSandboxConfig sandbox_config",
    },
    "AuthConfig": {
        "1 string username",
        "2 string password",
        "3 string auth",
        "4 string server_address",
        "5 string identity_token",
        "6 string registry_token",
    },
    "PodSandboxConfig": {
        "1 PodSandboxMetadata metadata",
        "2 string hostname",
        "3 string log_directory",
        "4 DNSConfig dns_config",
        "5 repeated PortMapping port_mappings",
        "6 map<string,string> labels",
        "7 map<string,string> annotations",
        "8 LinuxPodSandboxConfig linux",
        "9 WindowsPodSandboxConfig windows",
    },
    "PodSandboxMetadata": {
        "1 string name",
        "2 string uid",
        "3 string namespace",
        "4 uint32 attempt",
    },
    "DNSConfig": {
        "1 repeated string servers",
        "2 repeated string searches",
        "3 repeated string options",
    },
    "PortMapping": {
        "1 Protocol protocol",
        "2 int32 container_port",
        "3 int32 host_port",
        "4 string host_ip",
    },
    "LinuxPodSandboxConfig": {
        "1 string cgroup_parent",
        "2 LinuxSandboxSecurityContext security_context",
        "3 map<string,string> sysctls",
        "4 LinuxContainerResources overhead",
        "5 LinuxContainerResources resources",
    },
    "LinuxSandboxSecurityContext": {
        "1 NamespaceOption namespace_options",
        "2 SELinuxOption selinux_options",
        "3 Int64Value run_as_user",
        "8 Int64Value run_as_group",
        "4 bool readonly_rootfs",
        "5 repeated int64 supplemental_groups",
        "11 SupplementalGroupsPolicy supplemental_groups_policy",
        "6 bool privileged",
        "9 SecurityProfile seccomp",
        "10 SecurityProfile apparmor",
        "7 string seccomp_profile_path",
    },
    "NamespaceOption": {
        "1 NamespaceMode network",
        "2 NamespaceMode pid",
        "3 NamespaceMode ipc",
        "4 string target_id",
        "5 UserNamespace userns_options",
    },
    "UserNamespace": {
        "1 NamespaceMode mode",
        "2 repeated IDMapping uids",
        "3 repeated IDMapping gids",
    },
    "IDMapping": {
        "1 uint32 host_id",
        "2 uint32 container_id",
        "3 uint32 length",
    },
    "SELinuxOption": {
        "1 string user",
        "2 string role",
        "3 string type",
        "4 string level",
    },
    "SecurityProfile": {
        "1 ProfileType profile_type",
        "2 string localhost_ref",
    },
    "LinuxContainerResources": {
        "1 int64 cpu_period",
        "2 int64 cpu_quota",
        "3 int64 cpu_shares",
        "4 int64 memory_limit_in_bytes",
        "5 int64 oom_score_adj",
        "6 string cpuset_cpus",
        "7 string cpuset_mems",
        "8 repeated HugepageLimit hugepage_limits",
        "9 map<string,string> unified",
        "10 int64 memory_swap_limit_in_bytes",
    },
    "HugepageLimit": {
        "1 string page_size",
        "2 uint64 limit",
    },
    "WindowsPodSandboxConfig": {
        "1 WindowsSandboxSecurityContext security_context",
    },
    "WindowsSandboxSecurityContext": {
        "1 string run_as_username",
        "2 string credential_spec",
        "3 bool host_process",
        "4 WindowsNamespaceOption namespace_options",
    },
    "WindowsNamespaceOption": {
        "1 NamespaceMode network",
    },
    "PullImageResponse": {
        "1 string image_ref",
    },
    "RemoveImageRequest": {
        "1 ImageSpec image",
    },
    "RemoveImageResponse": set(),
    "ImageFsInfoRequest": set(),
    "ImageFsInfoResponse": {
        "1 repeated FilesystemUsage image_filesystems",
        "2 repeated FilesystemUsage container_filesystems",
    },
    "FilesystemUsage": {
        "1 int64 timestamp",
        "2 FilesystemIdentifier fs_id",
        "3 UInt64Value used_bytes",
        "4 UInt64Value inodes_used",
    },
    "FilesystemIdentifier": {
        "1 string mountpoint",
    },
    "UInt64Value": {
        "1 uint64 value",
    },
    "VersionRequest": {
        "1 string version",
    },
    "VersionResponse": {
        "1 string version",
        "2 string runtime_name",
        "3 string runtime_version",
        "4 string runtime_api_version",
    },
    "ListContainersRequest": {
        "1 ContainerFilter filter",
    },
    "ContainerFilter": {
        "1 string id",
        "2 ContainerStateValue state",
        "3 string pod_sandbox_id",
        "4 map<string,string> label_selector",
    },
    "ContainerStateValue": {
        "1 ContainerState state",
    },
    "ListContainersResponse": {
        "1 repeated Container containers",
    },
    "Container": {
        "1 string id",
        "2 string pod_sandbox_id",
        "3 ContainerMetadata metadata",
        "4 ImageSpec image",
        "5 string image_ref",
        "6 ContainerState state",
        "7 int64 created_at",
        "8 map<string,string> labels",
        "9 map<string,string> annotations",
        "10 string image_id",
    },
    "ContainerMetadata": {
        "1 string name",
        "2 uint32 attempt",
    },
    "StatusRequest": {
        "1 bool verbose",
    },
    "StatusResponse": {
        "1 RuntimeStatus status",
        "2 map<string,string> info",
        "3 repeated RuntimeHandler runtime_handlers",
        "4 RuntimeFeatures features",
    },
    "RuntimeStatus": {
        "1 repeated RuntimeCondition conditions",
    },
    "RuntimeCondition": {
        "1 string type",
        "2 bool status",
        "3 string reason",
        "4 string message",
    },
    "RuntimeHandler": {
        "1 string name",
        "2 RuntimeHandlerFeatures features",
    },
    "RuntimeHandlerFeatures": {
        "1 bool recursive_read_only_mounts",
        "2 bool user_namespaces",
    },
    "RuntimeFeatures": {
        "1 bool supplemental_groups_policy",
        "2 bool user_namespaces_host_network",
    },
}
"""Fields as "number type name"."""

ENUMS = {
    "Protocol": {"TCP": 0, "UDP": 1, "SCTP": 2},
    "SupplementalGroupsPolicy": {"Merge": 0, "Strict": 1},
    "NamespaceMode": {"POD": 0, "CONTAINER": 1, "NODE": 2, "TARGET": 3},
    "ProfileType": {"RuntimeDefault": 0, "Unconfined": 1, "Localhost": 2},
    "ContainerState": {
        "CONTAINER_CREATED": 0,
        "CONTAINER_RUNNING": 1,
        "CONTAINER_EXITED": 2,
        "CONTAINER_UNKNOWN": 3,
    },
}
