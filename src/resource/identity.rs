//! The fields that every resource has: its id, its project, its times and its revision.

/// Implements the methods of [`Resource`](super::Resource) that only say where a field is. The message has this field as its id,
/// and the fields `project_id`, `create_time`, `update_time` and `revision`.
macro_rules! identity {
    ($id:ident) => {
        fn id(&self) -> &str {
            &self.$id
        }

        fn set_id(&mut self, id: ResourceId) {
            self.$id = id.to_string();
        }

        fn project_id(&self) -> &str {
            &self.project_id
        }

        fn set_project_id(&mut self, project: &str) {
            project.clone_into(&mut self.project_id);
        }

        fn stamps(&self) -> Stamps {
            Stamps {
                create_time: self.create_time,
                update_time: self.update_time,
                revision: self.revision,
            }
        }

        fn set_stamps(&mut self, stamps: Stamps) {
            Stamps {
                create_time: self.create_time,
                update_time: self.update_time,
                revision: self.revision,
            } = stamps;
        }
    };
}

pub(super) use identity;
