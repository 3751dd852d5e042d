"""Says who asks, as Keystone's middleware would: a member of the project that the URL names."""


def factory(_global_conf, **_local_conf):
    def headers(app):
        def answer(environ, start_response):
            parts = environ.get("PATH_INFO", "").split("/")
            environ |= {
                "HTTP_X_IDENTITY_STATUS": "Confirmed",
                "HTTP_X_PROJECT_ID": parts[2] if len(parts) > 2 else "",
                "HTTP_X_TENANT_ID": parts[2] if len(parts) > 2 else "",
                "HTTP_X_USER_ID": "0cd44caf6db5486b94a04b33256a5ff4",
                "HTTP_X_ROLES": "member",
                "HTTP_X_AUTH_TOKEN": "notused",
            }
            return app(environ, start_response)

        return answer

    return headers
