//! What is the same in every resource: the fields that say what it is, whose, and since when.

/// The methods of [`Resource`](super::Resource) that only say where a field is: of a message with this field as its id, and the
/// fields `project_id`, `create_time`, `update_time` and `revision`.
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
