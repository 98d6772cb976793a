class Service {}
